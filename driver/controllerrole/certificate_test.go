package controllerrole

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/lockstep-csi/lockstep/internal/certs"
)

// secretStub has one Secret, whose certificate is what was stored last.
type secretStub struct {
	typedcorev1.SecretInterface
	cert atomic.Value
}

func (s *secretStub) Get(context.Context, string, metav1.GetOptions) (*corev1.Secret, error) {
	return &corev1.Secret{Data: map[string][]byte{certs.CertFile: []byte(s.cert.Load().(string))}}, nil
}

// TestTheControllerTakesUpItsCertificateWithinAMinute: engines have a new one about as soon,
// and speak to nobody who has one of an authority that was deleted.
func TestTheControllerTakesUpItsCertificateWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secrets := &secretStub{}
		c := certificate{secrets, t.TempDir()}
		secrets.cert.Store("old")
		if err := c.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.run(ctx, func(err error) { t.Error(err) }) }()
		secrets.cert.Store("new")
		<-time.After(time.Minute)
		synctest.Wait()
		if got, err := os.ReadFile(filepath.Join(c.dir, certs.CertFile)); err != nil || string(got) != "new" {
			t.Errorf("the certificate is %q, %v, after a minute", got, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
