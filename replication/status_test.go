package replication

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/journal"
)

// TestStatusRoundTrip: every refusal that has a reason matches the same
// sentinel on both sides of the wire.
func TestStatusRoundTrip(t *testing.T) {
	for _, r := range refusals {
		sent := fmt.Errorf("do something: %w", r.err)
		if r.err == ErrStaleTerm || r.err == ErrSplitBrain {
			sent = fmt.Errorf("judge: %w", &TermError{Kind: r.err, Group: "shop", Offered: 3, Held: 4, Owner: "b"})
		}
		over := toStatus(sent)
		if status.Code(over) != r.code {
			t.Errorf("%v travels as %v, want %v", sent, status.Code(over), r.code)
		}
		got := fromStatus(over, "b", "shop", 3)
		if r.reason != 0 && !errors.Is(got, r.err) {
			t.Errorf("%v arrives as %v", sent, got)
		}
		var term *TermError
		if errors.As(sent, &term) && got.Error() != term.Error() {
			t.Errorf("%v arrives as %v", term, got)
		}
	}
	if toStatus(nil) != nil || fromStatus(nil, "b", "shop", 3) != nil {
		t.Error("success is not an error")
	}
	if code := status.Code(toStatus(errors.New("other"))); code != codes.Internal {
		t.Errorf("unknown error travels as %v", code)
	}
}

// TestStatusSentinelsAreDistinct: an error that wraps only one sentinel must
// not be taken for another.
func TestStatusSentinelsAreDistinct(t *testing.T) {
	for i, a := range refusals {
		for j, b := range refusals {
			if i != j && (errors.Is(a.err, b.err) || a.reason != 0 && a.reason == b.reason) {
				t.Errorf("%v and %v are the same", a.err, b.err)
			}
		}
	}
}

// TestDemoteIfStale: only a refusal for a higher term demotes.
func TestDemoteIfStale(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"higher term", &TermError{Kind: ErrStaleTerm, Offered: 1, Held: 2, Owner: "b"}, true},
		{"higher term, wrapped", fmt.Errorf("announce: %w", &TermError{Kind: ErrStaleTerm, Offered: 1, Held: 2, Owner: "b"}), true},
		{"term of nothing", &TermError{Kind: ErrStaleTerm, Offered: 1}, false},
		{"split brain", &TermError{Kind: ErrSplitBrain, Offered: 1, Held: 2, Owner: "b"}, false},
		{"no detail", ErrStaleTerm, false},
		{"corrupt", journal.ErrCorrupt, false},
		{"none", nil, false},
	} {
		site := newModelSite("a", map[journal.VolumeID]*history{})
		site.lead(1)
		demoted, err := demoteIfStale(context.Background(), site, "shop", c.err)
		if err != nil || demoted != c.want || (site.held.Term == 2) != c.want {
			t.Errorf("%s: demoted %v, %v, holds %+v", c.name, demoted, err, site.held)
		}
	}
}

// TestACallThatFailsIsToldInPlainWords, and keeps its status.
func TestACallThatFailsIsToldInPlainWords(t *testing.T) {
	for message, want := range map[string]string{
		`connection error: desc = "transport: Error while dialing: dial tcp 10.0.0.2:7443: connect: connection refused"`: "call site b: dial tcp 10.0.0.2:7443: connect: connection refused",
		`connection error: desc = "transport: authentication handshake failed: EOF"`:                                     "call site b: authentication handshake failed: EOF",
		"error reading from server: EOF": "call site b: error reading from server: EOF",
	} {
		err := fromStatus(status.Error(codes.Unavailable, message), "b", "shop", 1)
		if err.Error() != want || status.Code(err) != codes.Unavailable {
			t.Errorf("%v (%v), want %s", err, status.Code(err), want)
		}
	}
}
