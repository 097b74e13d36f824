package site_test

import (
	"context"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestADemotedSiteTakesNoWritesWhenAMemberGoes: its successor has told of itself by a refusal
// alone, and of the group's end, so that a member can be removed.
func TestADemotedSiteTakesNoWritesWhenAMemberGoes(t *testing.T) {
	ctx := context.Background()
	s := prepared(t, vfs.NewMem())
	defer mustClose(t, s)
	standings := s.Groups().Standings()
	if err := errors.Join(standings.Demote(ctx, "shop", 2, "b"), standings.Ended(ctx, "b", "shop", 2)); err != nil {
		t.Fatal(err)
	}
	refused := func() error { return s.exports.device(volumeA).WriteAt(ctx, make([]byte, 512), 0, false) }
	if err := refused(); !errors.Is(err, engine.ErrReadOnly) {
		t.Fatalf("write at a site that was demoted: %v, want ErrReadOnly", err)
	}
	if err := s.RemoveReplica(ctx, volumeB); err != nil {
		t.Fatal(err)
	}
	if err := refused(); !errors.Is(err, engine.ErrReadOnly) {
		t.Errorf("write at a site that was demoted, behind the removal of a member: %v, want ErrReadOnly", err)
	}
}
