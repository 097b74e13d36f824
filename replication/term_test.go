package replication

import (
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/group"
)

// TestJudge is the decision table, one case per row; the peer is site b, this
// site is a, and the offered term is 5.
func TestJudge(t *testing.T) {
	const offered = 5
	for _, c := range []struct {
		name  string
		held  Standing
		known bool
		want  verdict
		err   error
		owner string
	}{
		{name: "unknown group", want: verdictFollow},
		{name: "higher, replica of the peer", held: Standing{group.RoleReplica, 6, "b"}, known: true, err: ErrStaleTerm, owner: "b"},
		{name: "higher, replica of another", held: Standing{group.RoleReplica, 6, "c"}, known: true, err: ErrStaleTerm, owner: "c"},
		{name: "higher, primary", held: Standing{group.RolePrimary, 6, ""}, known: true, err: ErrStaleTerm, owner: "a"},
		{name: "equal, primary", held: Standing{group.RolePrimary, 5, ""}, known: true, err: ErrSplitBrain, owner: "a"},
		{name: "equal, replica of the peer", held: Standing{group.RoleReplica, 5, "b"}, known: true, want: verdictKeep},
		{name: "equal, replica of none", held: Standing{group.RoleReplica, 5, ""}, known: true, want: verdictFollow},
		{name: "equal, replica of another", held: Standing{group.RoleReplica, 5, "c"}, known: true, err: ErrSplitBrain, owner: "c"},
		{name: "lower, replica of the peer", held: Standing{group.RoleReplica, 4, "b"}, known: true, want: verdictFollow},
		{name: "lower, replica of another", held: Standing{group.RoleReplica, 4, "c"}, known: true, want: verdictFollow},
		{name: "lower, primary", held: Standing{group.RolePrimary, 4, ""}, known: true, want: verdictDemote},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := judge("a", "b", "shop", c.held, c.known, offered)
			if !errors.Is(err, c.err) || c.err == nil && (err != nil || got != c.want) {
				t.Fatalf("got %d, %v; want %d, %v", got, err, c.want, c.err)
			}
			var term *TermError
			if errors.As(err, &term) && (term.Owner != c.owner || term.Held != c.held.Term || term.Offered != offered) {
				t.Errorf("refusal is %+v, want owner %s", term, c.owner)
			}
		})
	}
	if _, err := judge("a", "a", "shop", Standing{}, false, offered); !errors.Is(err, ErrProtocol) {
		t.Errorf("a site may not send to itself: %v", err)
	}
}
