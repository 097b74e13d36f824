package fleet

import (
	"testing"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
)

// A promotion that is not finished has a term of its own, at which the site is the primary in all
// that it answers: its engines take nothing at that term, from the old primary neither. A move of
// a volume can have raised that one's term as high.
func TestEnginesThatAreBeingPromotedAreFedByNobody(t *testing.T) {
	st := group.State{Name: "shop", Role: group.RoleReplica, Term: 3, Source: "b"}
	var o control.Orders
	new(Fleet).ordersOfGroup(&o, st)
	if o.Role != control.Replica || o.Term != 3 || o.Source != "b" {
		t.Fatalf("orders of a replica: %+v", o)
	}
	st.Term, st.Pending = 4, &group.Operation{Kind: group.OperationFailover, Role: group.RolePrimary, Term: 4}
	new(Fleet).ordersOfGroup(&o, st)
	if o.Role != control.Replica || o.Term != 4 || o.Source != "" || o.Writable {
		t.Errorf("orders in the midst of a promotion: role %s, term %d, source %q, writable %t", o.Role, o.Term, o.Source, o.Writable)
	}
}
