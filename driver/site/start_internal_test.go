package site

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// TestAGroupThatWasStartedMeanwhile: a site that is started looks again at volumes that found
// no room while it fills the members of a group from a fork. A group that was started for one
// of them is not started again: two coordinators would number its checkpoints.
func TestAGroupThatWasStartedMeanwhile(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx := context.Background()
	s, err := Open(ctx, Config{Name: "a", Root: "/root", FS: vfs.NewMem(), SegmentBytes: journal.MinSegmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	volume := NewVolume{ID: journal.VolumeID{1}, Name: "a", SizeBytes: 8 << 20, Group: "shop", Settings: group.Settings{}.WithDefaults()}
	if err := s.CreateVolume(ctx, volume); err != nil {
		t.Fatal(err)
	}
	s.startGroups(ctx, s.groups.States())
	if _, _, err := s.groups.TakePoint(ctx, "shop", ""); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
