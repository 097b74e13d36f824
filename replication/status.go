package replication

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// refusals maps errors to gRPC codes and to the reason that carries them over
// the wire, and back. The first that matches counts.
var refusals = []struct {
	err    error
	code   codes.Code
	reason replicationv1.Refusal_Reason
}{
	{ErrStaleTerm, codes.FailedPrecondition, replicationv1.Refusal_REASON_STALE_TERM},
	{ErrSplitBrain, codes.FailedPrecondition, replicationv1.Refusal_REASON_SPLIT_BRAIN},
	{ErrNotAnnounced, codes.Aborted, replicationv1.Refusal_REASON_NOT_ANNOUNCED},
	{ErrOtherGroup, codes.FailedPrecondition, replicationv1.Refusal_REASON_OTHER_GROUP},
	{ErrFenced, codes.Aborted, replicationv1.Refusal_REASON_FENCED},
	{ErrReplaced, codes.Aborted, replicationv1.Refusal_REASON_REPLACED},
	{ErrRealign, codes.Aborted, replicationv1.Refusal_REASON_REALIGN},
	{ErrProtocolVersion, codes.FailedPrecondition, replicationv1.Refusal_REASON_VERSION},
	{ErrProtocol, codes.InvalidArgument, replicationv1.Refusal_REASON_PROTOCOL},
	{ErrLimit, codes.InvalidArgument, replicationv1.Refusal_REASON_LIMIT},
	{ErrUnknownMember, codes.NotFound, replicationv1.Refusal_REASON_UNKNOWN_MEMBER},
	{ErrAhead, codes.FailedPrecondition, replicationv1.Refusal_REASON_AHEAD},
	{journal.ErrCorrupt, codes.DataLoss, replicationv1.Refusal_REASON_CORRUPT},
	{journal.ErrFull, codes.ResourceExhausted, replicationv1.Refusal_REASON_FULL},
	// No reason: the caller can do no more about these than try again.
	{ErrInUse, codes.FailedPrecondition, 0},
	{ErrClosed, codes.Unavailable, 0},
	{ErrNotGateway, codes.PermissionDenied, 0},
	{journal.ErrGap, codes.Aborted, 0},
	{context.Canceled, codes.Canceled, 0},
	{context.DeadlineExceeded, codes.DeadlineExceeded, 0},
}

// Status turns an error of this package into the status that a peer gets, with
// the refusal that tells it what to do.
func Status(err error) error { return toStatus(err) }

// toStatus turns an error of this package into what gRPC returns to the peer.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	for _, r := range refusals {
		if !errors.Is(err, r.err) {
			continue
		}
		st := status.New(r.code, err.Error())
		if r.reason == 0 {
			return st.Err()
		}
		refusal := &replicationv1.Refusal{Reason: r.reason}
		var term *TermError
		if errors.As(err, &term) {
			refusal.Term, refusal.Owner = uint64(term.Held), term.Owner
		}
		if detailed, err := st.WithDetails(refusal); err == nil {
			return detailed.Err()
		}
		return st.Err()
	}
	return status.Error(codes.Internal, err.Error())
}

// refusalError is a peer's refusal. The message ends with the kind's text
// already: it is what the peer's error said.
type refusalError struct {
	peer, message string
	kind          error
}

func (e *refusalError) Error() string {
	return fmt.Sprintf("refused by site %s: %s", e.peer, e.message)
}
func (e *refusalError) Unwrap() error { return e.kind }

// fromStatus turns what a peer answered back into an error that matches the
// same sentinel as on the other side. groupName and offered complete a
// *TermError.
func fromStatus(err error, peer, groupName string, offered group.Term) error {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	for _, detail := range st.Details() {
		refusal, ok := detail.(*replicationv1.Refusal)
		if !ok {
			continue
		}
		for _, r := range refusals {
			if r.reason == 0 || r.reason != refusal.GetReason() {
				continue
			}
			if r.err != ErrStaleTerm && r.err != ErrSplitBrain {
				return &refusalError{peer: peer, message: st.Message(), kind: r.err}
			}
			owner := refusal.GetOwner()
			if len(owner) == 0 || len(owner) > MaxNameBytes {
				owner = peer
			}
			return &TermError{Kind: r.err, Group: groupName, Offered: offered, Held: group.Term(refusal.GetTerm()), Owner: owner}
		}
	}
	return &callError{peer: peer, message: plain(st.Message()), err: err}
}

// callError is a call of a peer that failed without a refusal. It tells a person what
// happened, and keeps gRPC's status for who asks.
type callError struct {
	peer    string
	message string
	err     error
}

func (e *callError) Error() string { return "call site " + e.peer + ": " + e.message }

func (e *callError) Unwrap() error { return e.err }

// plain takes gRPC's own words from around what the network, or TLS, said:
//
//	connection error: desc = "transport: Error while dialing: dial tcp ..."
func plain(message string) string {
	if quoted, ok := strings.CutPrefix(message, "connection error: desc = "); ok {
		if inner, err := strconv.Unquote(quoted); err == nil {
			message = strings.TrimPrefix(strings.TrimPrefix(inner, "transport: "), "Error while dialing: ")
		}
	}
	return message
}
