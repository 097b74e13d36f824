package backing_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// afterDelete has something happen between the first deletion of a claim and its
// answer: the client that asked for it is frozen then.
type afterDelete struct {
	http.RoundTripper
	meanwhile func()
	once      sync.Once
}

func (a *afterDelete) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := a.RoundTripper.RoundTrip(request)
	if request.Method == http.MethodDelete && strings.Contains(request.URL.Path, "/persistentvolumeclaims/") {
		a.once.Do(a.meanwhile)
	}
	return response, err
}

// A controller that is frozen while it deletes a volume's claims, and goes on when
// the one that followed it has deleted them and made the volume again under its
// name, leaves that one's claims alone.
func TestDeleteStopsAtClaimsMadeMeanwhile(t *testing.T) {
	r := newRig(t)
	s := r.spec()
	s.JournalClass = r.class
	r.ensure(s)
	names := []string{kubenames.BackingClaim(volume), kubenames.JournalClaim(volume)}
	made := map[string]types.UID{}
	config := r.server.Config()
	config.Wrap(func(server http.RoundTripper) http.RoundTripper {
		return &afterDelete{RoundTripper: server, meanwhile: func() {
			r.check(r.claims.Delete(t.Context(), volume))
			r.ensure(s)
			for _, name := range names {
				made[name] = r.claim(name).UID
			}
		}}
	})
	client, err := kubernetes.NewForConfig(config)
	r.check(err)
	r.check(r.claimsOf(client).Delete(t.Context(), volume))
	if len(made) != 2 {
		t.Fatalf("nothing happened meanwhile: %v", made)
	}
	for _, name := range names {
		if claim := r.claim(name); claim.UID != made[name] || claim.DeletionTimestamp != nil {
			t.Errorf("claim %s was made meanwhile with uid %s: it has uid %s now and is deleted at %v", name, made[name], claim.UID, claim.DeletionTimestamp)
		}
	}
}
