package fleet

import (
	"strings"

	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// ClaimOf is the claim of a volume: the one that its primary announces, or, where
// it is one of this site, the one that it was made for. ok is false where neither
// is known.
func (v *Volume) ClaimOf() (namespace, name string, ok bool) {
	return claimOf(v.Attributes, v.Claim)
}

func claimOf(attributes map[string]string, madeFor string) (namespace, name string, ok bool) {
	namespace, name = attributes[replication.AttributeNamespace], attributes[replication.AttributeName]
	if namespace == "" || name == "" {
		namespace, name, _ = strings.Cut(madeFor, "/")
	}
	return namespace, name, namespace != "" && name != ""
}

// Title is how messages name a volume to people: by its claim, with the id that
// pods and logs have beside it; by the id alone where no claim is known.
func (v *Volume) Title() string { return title(v.ID, v.Attributes, v.Claim) }

// title is Volume.Title of a record.
func (r *record) title() string { return title(r.ID, r.Attributes, r.Backing.Claim) }

func title(id journal.VolumeID, attributes map[string]string, madeFor string) string {
	if namespace, name, ok := claimOf(attributes, madeFor); ok {
		return "claim " + namespace + "/" + name + " (volume " + id.String() + ")"
	}
	return "volume " + id.String()
}

// Title implements groups.Members.
func (f members) Title(id journal.VolumeID) string {
	v, err := f.volumeOf(id)
	if err != nil {
		return "volume " + id.String()
	}
	r := f.recordOf(v)
	return r.title()
}
