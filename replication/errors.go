package replication

import (
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/group"
)

var (
	// ErrStaleTerm: the peer holds a higher term for the group than the one
	// that was offered. Errors of this kind are a *TermError. The site whose
	// term was refused is no longer primary.
	ErrStaleTerm = errors.New("term is stale")
	// ErrOwnTerm: the term that this site was refused for is its own. It holds that now,
	// and is primary still.
	ErrOwnTerm = errors.New("this site owns the term that it was refused for")
	// ErrSplitBrain: two sites claim the same term of a group. Neither gives
	// way by itself; promoting one of them again, which raises its term,
	// decides. Errors of this kind are a *TermError.
	ErrSplitBrain = errors.New("two sites are primary with the same term")
	// ErrNotAnnounced: a volume's stream came before the group's
	// announcement at the same term. The caller announces and tries again.
	ErrNotAnnounced = errors.New("group is not announced at this term")
	// ErrOtherGroup: the peer holds a group of that name that is not the
	// announced one: none of its members is announced. It is the replica of a
	// group that has ended, or was promoted since. A person removes it there.
	ErrOtherGroup = errors.New("another group had this name")
	// ErrFenced: the group is being promoted; its streams are closed.
	ErrFenced = errors.New("group is fenced")
	// ErrReplaced: a newer stream of the same volume took over.
	ErrReplaced = errors.New("replaced by a newer stream")
	// ErrRealign: the source went on on a timeline of which the replica
	// already holds a part. A new stream finds out how much.
	ErrRealign = errors.New("timeline is known already, stream must be opened anew")
	// ErrProtocol: the peer sent something that the protocol forbids at this
	// point. Nothing was changed by the offending message.
	ErrProtocol = errors.New("protocol violated")
	// ErrProtocolVersion: the peer speaks another version of the protocol.
	ErrProtocolVersion = errors.New("unknown protocol version")
	// ErrLimit: a message exceeds one of the limits in limits.go.
	ErrLimit = errors.New("limit exceeded")
	// ErrUnknownMember: the volume is not a member of the announced group.
	ErrUnknownMember = errors.New("volume is not a member of the group")
	// ErrAhead: the replica holds durable records of the source's active
	// timeline that the source does not have. A source never loses durable
	// records, so its disk was rolled back or exchanged; which side is right
	// is for a person to decide (fail over, or delete the replica).
	ErrAhead = errors.New("replica is ahead of its source")
	// ErrNoReplica: returned by ReplicaStores.Replica for a member whose store
	// was not filled yet.
	ErrNoReplica = errors.New("no store of this volume")
	// ErrNotGateway: a call that says which site it comes from was not made by
	// a gateway.
	ErrNotGateway = errors.New("caller is not a gateway")
	// ErrInUse: somebody on the replica's site uses the store that an image is
	// to replace. The image is kept, and put in place by a later stream.
	ErrInUse = errors.New("replica's store is in use and cannot be replaced")
	// ErrClosed: the Server was closed.
	ErrClosed = errors.New("replication server is closed")
)

// TermError is a refusal for the sake of the term. It matches ErrStaleTerm or
// ErrSplitBrain, whichever Kind is.
type TermError struct {
	Kind    error
	Group   string
	Offered group.Term // by the refused site
	Held    group.Term // by the refusing site
	Owner   string     // the site that was promoted to Held
}

// Error names group, both terms and the owner of the held one.
func (e *TermError) Error() string {
	return fmt.Sprintf("group %s: %v: offered %d, held %d, which belongs to site %s", e.Group, e.Kind, e.Offered, e.Held, e.Owner)
}

// Unwrap returns Kind.
func (e *TermError) Unwrap() error { return e.Kind }
