package fleet

import (
	"testing"

	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// Messages name a volume by its claim, which is what people know, and by its id,
// which is what pods and logs have.
func TestMessagesNameVolumesByTheirClaims(t *testing.T) {
	id := journal.VolumeID{0xab}
	announced := map[string]string{replication.AttributeNamespace: "shop", replication.AttributeName: "pgdata"}
	for _, c := range []struct {
		name string
		v    Volume
		want string
	}{
		{"no claim", Volume{ID: id, Name: "pvc-1"}, "volume " + id.String()},
		{"its own", Volume{ID: id, Name: "pvc-1", Claim: "shop/wal"}, "claim shop/wal (volume " + id.String() + ")"},
		{"its primary's", Volume{ID: id, Attributes: announced}, "claim shop/pgdata (volume " + id.String() + ")"},
		{"moved by a failover", Volume{ID: id, Claim: "old/wal", Attributes: announced}, "claim shop/pgdata (volume " + id.String() + ")"},
		{"half of a name", Volume{ID: id, Attributes: map[string]string{replication.AttributeName: "pgdata"}}, "volume " + id.String()},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.v.Title(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			r := record{ID: c.v.ID, Attributes: c.v.Attributes, Backing: BackingSpec{Claim: c.v.Claim}}
			if got := r.title(); got != c.want {
				t.Errorf("its record says %q, want %q", got, c.want)
			}
		})
	}
}
