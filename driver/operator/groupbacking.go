package operator

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/fleet"
)

// shortBy is how much too small a volume's backing is; nil: it is not. While no engine
// tells, it is what was known last.
func shortBy(v *fleet.Volume, old []v1alpha1.GroupMember) *resource.Quantity {
	s := v.State.Store
	if !v.Connected || s == nil {
		i := slices.IndexFunc(old, func(m v1alpha1.GroupMember) bool { return m.Volume == v.ID.String() })
		if i < 0 {
			return nil
		}
		return old[i].ShortBy
	}
	if s.ShortByBytes == 0 {
		return nil
	}
	return quantity(s.ShortByBytes)
}

// sufficient tells whether the members' backing volumes are large enough for what they
// may come to hold. One that is not is full some day, long after it could have been
// known.
func sufficient(out *v1alpha1.ConsistencyGroupStatus) (metav1.ConditionStatus, string, string) {
	var short []string
	for _, m := range out.Members {
		if m.ShortBy != nil {
			short = append(short, fmt.Sprintf("%s: %s", orID(m.Claim, m.Volume), m.ShortBy))
		}
	}
	if len(short) > 0 {
		return metav1.ConditionFalse, reasonShortBacking, "the backing volumes, or the quotas on them, are smaller than volume and journalSize: " +
			"history will be shorter and writes may be refused. Enlarge them or lower journalSize; missing are " + strings.Join(short, ", ")
	}
	return metav1.ConditionTrue, reasonFits, ""
}
