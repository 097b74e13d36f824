package site_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// leftBehind makes a site whose members held 1 at the point "before", hold 3 now, and held
// 2 at a point that is pinned as "aside" on what a rewind to "before" has left.
func leftBehind(t *testing.T, fs vfs.FS) (*opened, group.Point) {
	t.Helper()
	ctx := context.Background()
	s := prepared(t, fs)
	aside, _, err := s.Groups().TakePoint(ctx, "shop", "aside")
	if err == nil {
		err = rewound(s)
	}
	if err == nil {
		_, err = s.Groups().CommitRewind(ctx, "shop", false)
	}
	if err == nil {
		err = s.fill(3)
	}
	if err == nil {
		_, _, err = s.Groups().TakePoint(ctx, "shop", "")
	}
	if err != nil {
		t.Fatal(err)
	}
	return s, aside
}

func (o *opened) listed(t *testing.T) []groups.ListedPoint {
	t.Helper()
	points, total, err := o.Groups().ListPoints(context.Background(), "shop", time.Time{}, time.Time{}, 1000)
	if err != nil || total != len(points) {
		t.Fatalf("%d points of %d, %v", len(points), total, err)
	}
	return points
}

// left are the listed points that are on a timeline that was left.
func (o *opened) left(t *testing.T) []groups.ListedPoint {
	t.Helper()
	return slices.DeleteFunc(o.listed(t), func(p groups.ListedPoint) bool { return p.Left == nil })
}

// TestWhatIsPinnedIsListedWhenARewindHasLeftIt, with where each member has it, as long as it
// is pinned, and is nobody's latest, newest before a moment, or number.
func TestWhatIsPinnedIsListedWhenARewindHasLeftIt(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s, aside := leftBehind(t, fs)
	mustClose(t, s)
	s = mustOpen(t, fs)
	defer mustClose(t, s)
	left := s.left(t)
	if len(left) != 1 || left[0].Checkpoint != aside.Checkpoint || !slices.Equal(left[0].Pins, []string{"aside"}) || left[0].Members != 2 {
		t.Fatalf("left are %+v, want checkpoint %d", left, aside.Checkpoint)
	}
	for id, at := range aside.Members {
		if left[0].Left[id] != at {
			t.Errorf("volume %s has it at %s, want %s", id, left[0].Left[id], at)
		}
	}
	latest, err := s.Groups().Select(ctx, "shop", "latest")
	if err != nil || latest.Left || latest.Checkpoint <= aside.Checkpoint {
		t.Errorf("latest is %+v, %v", latest, err)
	}
	before, err := s.Groups().Select(ctx, "shop", aside.Time.Add(time.Nanosecond).Format(time.RFC3339Nano))
	if err != nil || before.Left || !slices.Contains(before.Pins, "before") {
		t.Errorf("the newest point before its time is %+v, %v", before, err)
	}
	var none *group.NoPointError
	_, err = s.Groups().Select(ctx, "shop", fmt.Sprint(aside.Checkpoint))
	if !errors.As(err, &none) || len(none.Left) != 1 || !strings.Contains(err.Error(), "pin:aside") {
		t.Errorf("by its number it is %v, want an error that names the pin", err)
	}
	if err := s.DropPin(ctx, "shop", "aside"); err != nil {
		t.Fatal(err)
	}
	if left := s.left(t); len(left) != 0 {
		t.Errorf("without its pin %+v is listed", left)
	}
}

// TestOneCanGoToWhatARewindHasLeft: look at it, write to a fork of it, and return to it, and
// back from there.
func TestOneCanGoToWhatARewindHasLeft(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s, aside := leftBehind(t, fs)
	v, err := s.OpenView(ctx, "shop", "pin:aside")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range members {
		dev, err := s.ViewDevice(v.ID, id)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 512)
		if err := dev.ReadAt(ctx, p, 0); err != nil || p[0] != 2 {
			t.Errorf("view of %s holds %d, %v, want 2", id, p[0], err)
		}
	}
	if err := s.CloseView(v.ID); err != nil {
		t.Fatal(err)
	}
	s.makeFork(t, "try", "pin:aside")
	s.expectFork(t, "try", 2)
	if err := s.DiscardFork(ctx, "try"); err != nil {
		t.Fatal(err)
	}
	restored := site.NewVolume{ID: journal.VolumeID{9}, Name: "restored", SizeBytes: volumeBytes, Group: "other", Settings: quiet(), Image: &site.Image{Member: volumeB, Pin: "aside"}}
	if err := s.CreateVolume(ctx, restored); err != nil {
		t.Fatal(err)
	}
	if got := s.content(t, restored.ID); got != 2 {
		t.Errorf("restored volume holds %d, want 2", got)
	}
	rewind, err := s.Groups().StartRewind(ctx, "shop", "pin:aside", false)
	if err != nil || rewind.To.Left || rewind.To.Checkpoint != aside.Checkpoint {
		t.Fatalf("rewind to %+v, %v", rewind.To, err)
	}
	s.expect(t, 2)
	left := s.left(t) // the way back
	if len(left) != 1 || left[0].Checkpoint != rewind.From.Checkpoint || !group.IsRewindPin(left[0].Pins[0]) {
		t.Errorf("left are %+v, want checkpoint %d", left, rewind.From.Checkpoint)
	}
	mustClose(t, s)
	s = mustOpen(t, fs)
	s.expect(t, 2)
	if _, err := s.Groups().UndoRewind(ctx, "shop", false); err != nil {
		t.Fatal(err)
	}
	s.expect(t, 3)
	if left := s.left(t); len(left) != 1 || left[0].Checkpoint != aside.Checkpoint {
		t.Errorf("left are %+v, want checkpoint %d", left, aside.Checkpoint)
	}
	// A pin that is made again keeps what it keeps.
	if p, err := s.Groups().PinPoint(ctx, "shop", "aside", ""); err != nil || p.Checkpoint != aside.Checkpoint {
		t.Errorf("pinned again it is checkpoint %d, %v", p.Checkpoint, err)
	}
	mustClose(t, s)
}
