package controllerrole

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/lockstep-csi/lockstep/controller/authority"
	"github.com/lockstep-csi/lockstep/internal/certs"
)

// certificate keeps the files of the controller's own certificate as its
// Secret says. Other roles have theirs mounted; the controller cannot, because
// it makes the Secret.
type certificate struct {
	secrets typedcorev1.SecretInterface
	dir     string
}

// certificateEvery is how often the Secret is looked at: as often as the authority looks
// whether it has to be made anew, and about as often as a kubelet looks at those of
// others. Of two authorities that do not know each other, as after the first one's Secret
// was deleted by hand, no role speaks to the other's.
const certificateEvery = time.Minute

// sync writes the files that differ.
func (c certificate) sync(ctx context.Context) error {
	secret, err := c.secrets.Get(ctx, authority.SecretOf(certs.RoleController), metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the controller's certificate: %w", err)
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("write the controller's certificate: %w", err)
	}
	for name, data := range secret.Data {
		path := filepath.Join(c.dir, filepath.Base(name))
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
			continue
		}
		// Readers find the old file or the new one.
		if err := os.WriteFile(path+".new", data, 0o600); err != nil {
			return fmt.Errorf("write the controller's certificate: %w", err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			return fmt.Errorf("write the controller's certificate: %w", err)
		}
	}
	return nil
}

// run keeps the files in order until ctx ends.
func (c certificate) run(ctx context.Context, failed func(error)) error {
	tick := time.NewTicker(certificateEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := c.sync(ctx); err != nil && ctx.Err() == nil {
				failed(err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}
