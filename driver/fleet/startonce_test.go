package fleet_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
)

// A controller that comes back in the midst of a failover has the group started once, however
// soon the engines answer: of two that take its checkpoints one would never end.
func TestAGroupIsStartedOnce(t *testing.T) {
	for k := 1; startAfterCommit(t, k); k++ {
	}
}

// startAfterCommit has a failover end at its k-th commit and another controller begin, slowly. It
// reports whether there was such a commit. A goroutine that is left fails the test.
func startAfterCommit(t *testing.T, k int) (was bool) {
	synctest.Test(t, func(t *testing.T) {
		a, b, fa, fb := newPair(t)
		defer closeFleet(t, fa)
		replicated(t, a, fa, fb, 1)
		commits := 0
		b.db.SetHooks(kv.Hooks{BeforeCommit: func() error {
			if commits++; commits >= k {
				return errCrash
			}
			return nil
		}})
		_, err := fb.Groups().Failover(bounded(t), "shop", "latest", false)
		was = err != nil
		closeFleet(t, fb)
		b.db = b.db.Clone()
		var once sync.Once
		b.logging = func(message string) {
			if message == "what an operation returns to is not held until it is finished" {
				once.Do(func() { time.Sleep(10 * time.Millisecond) })
			}
		}
		next := b.open()
		defer closeFleet(t, next)
		until(t, "the end of the failover", func() bool {
			st, err := next.Groups().State("shop")
			return err == nil && st.Pending == nil && (st.Role == group.RoleReplica || st.Term > 1)
		})
	})
	return was
}
