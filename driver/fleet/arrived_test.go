package fleet_test

import (
	"testing"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
)

// A controller that dies in the midst of a failover, at whatever commit, leaves a site that is
// primary of what it has. The next one does not take a member for absent while its engine does
// not answer: nobody would make a claim for it, and points would be without it.
func TestAMemberIsNotAbsentBecauseTheControllerIsNew(t *testing.T) {
	for k := 1; ; k++ {
		commits, promoted := failOverUntil(t, k)
		if commits < k {
			if k == 1 || !promoted {
				t.Errorf("%d commits, promoted %t: nothing was tested", commits, promoted)
			}
			return
		}
	}
}

// failOverUntil has the controller of a new pair's second site die behind the k-th commit of a
// failover, if there is one, and looks at what the next one says of its members.
func failOverUntil(t *testing.T, k int) (commits int, promoted bool) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	replicated(t, a, fa, fb, 1)
	b.db.SetHooks(kv.Hooks{BeforeCommit: func() error {
		if commits >= k {
			return errCrash
		}
		commits++
		return nil
	}})
	_, err := fb.Groups().Failover(bounded(t), "shop", "latest", false)
	closeFleet(t, fb)
	if err != nil && commits < k {
		t.Fatalf("undisturbed: %v", err)
	}
	b.mu.Lock()
	b.deaf = true // to the next controller
	b.mu.Unlock()
	b.db = b.db.Clone()
	next := b.open()
	defer closeFleet(t, next)
	st, err := next.Groups().State("shop")
	if err != nil {
		t.Fatal(err)
	}
	v, err := next.Volume(id(1))
	if err != nil {
		t.Fatal(err)
	}
	if promoted = st.Role == group.RolePrimary; promoted && v.Absent {
		t.Errorf("crash at commit %d: the member is absent", k)
	}
	return commits, promoted
}
