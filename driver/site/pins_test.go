package site_test

import (
	"context"
	"slices"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// isPinned reports whether a point of a group has a pin.
func (o *opened) isPinned(t *testing.T, name, pin string) bool {
	t.Helper()
	points, err := o.Groups().PinnedPoints(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range points {
		if slices.Contains(p.Pins, pin) {
			return true
		}
	}
	return false
}

// TestDroppingAPinLeavesAnotherGroups: people choose the names of pins, and two groups can
// have one of the same name.
func TestDroppingAPinLeavesAnotherGroups(t *testing.T) {
	ctx := context.Background()
	s := prepared(t, vfs.NewMem())
	if err := s.CreateVolume(ctx, site.NewVolume{ID: journal.VolumeID{9}, Name: "mail", SizeBytes: volumeBytes, Group: "mail", Settings: quiet()}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Groups().TakePoint(ctx, "mail", "before"); err != nil {
		t.Fatal(err)
	}
	if err := s.DropPin(ctx, "shop", "before"); err != nil {
		t.Fatal(err)
	}
	if s.isPinned(t, "shop", "before") {
		t.Error("the pin is still there")
	}
	if !s.isPinned(t, "mail", "before") {
		t.Error("the other group's pin is gone")
	}
	mustClose(t, s)
}

// TestAPinIsDroppedFromAStoreThatIsNotOpen, as soon as it is: nobody would know of it any
// more, and it would hold the journal for ever.
func TestAPinIsDroppedFromAStoreThatIsNotOpen(t *testing.T) {
	ctx := context.Background()
	for _, how := range []string{"reopened", "restarted", "deleted"} {
		t.Run(how, func(t *testing.T) {
			fs := vfs.NewMem()
			mustClose(t, prepared(t, fs))
			base := "/root/volumes/" + volumeB.String() + "/store-1/base.img"
			if err := fs.Rename(base, base+".away"); err != nil {
				t.Fatal(err)
			}
			s := mustOpen(t, fs)
			for range 2 {
				if err := s.UnpinPoint(ctx, "before"); err != nil {
					t.Fatal(err)
				}
			}
			if err := fs.Rename(base+".away", base); err != nil {
				t.Fatal(err)
			}
			var err error
			switch how {
			case "reopened":
				_, err = s.ReopenVolume(ctx, volumeB)
			case "restarted":
				mustClose(t, s)
				s = mustOpen(t, fs)
			case "deleted": // and what was noted of it does not meet one of its id
				if err = s.DeleteVolume(ctx, volumeB); err == nil {
					err = s.create(volumeB, nil)
				}
				if err == nil {
					_, _, err = s.Groups().TakePoint(ctx, "shop", "before")
				}
				mustClose(t, s)
				s = mustOpen(t, fs)
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := s.isPinned(t, "shop", "before"), how == "deleted"; got != want {
				t.Errorf("pinned: %v, want %v", got, want)
			}
			mustClose(t, s)
		})
	}
}

// TestAPinThatIsTakenAgainStays: what could not be dropped when its store was opened, for
// want of room, is not dropped in the place of one that was taken under the name since.
func TestAPinThatIsTakenAgainStays(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	mustClose(t, prepared(t, fs))
	base := "/root/volumes/" + volumeB.String() + "/store-1/base.img"
	if err := fs.Rename(base, base+".away"); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, fs)
	if err := s.DropPin(ctx, "shop", "before"); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	if err := fs.Rename(base+".away", base); err != nil {
		t.Fatal(err)
	}
	full := vfs.NewFault(fs)
	full.FailFrom(1, vfs.ErrNoSpace, vfs.OpCommit)
	s = mustOpen(t, full)
	full.Mend()
	if _, _, err := s.Groups().TakePoint(ctx, "shop", "before"); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s = mustOpen(t, fs)
	mustClose(t, s)
	for _, id := range members {
		if pins := pinsOf(t, fs, id); !slices.Contains(pins, "before") {
			t.Errorf("volume %s has the pins %q", id, pins)
		}
	}
}

// TestAForkEndsWhereAStoreDoesNotOpen: the store drops the fork's pin when it does.
func TestAForkEndsWhereAStoreDoesNotOpen(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	s.makeFork(t, "x", "pin:before")
	mustClose(t, s)
	base := "/root/volumes/" + volumeB.String() + "/store-1/base.img"
	if err := fs.Rename(base, base+".away"); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, fs)
	if err := s.DiscardFork(ctx, "x"); err != nil {
		t.Error(err)
	}
	if forks := s.ListForks(); len(forks) != 0 {
		t.Errorf("there is %+v", forks)
	}
	mustClose(t, s)
	if err := fs.Rename(base+".away", base); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, fs)
	s.expectNothingOf(t, fs, "x")
	mustClose(t, s)
	for _, id := range members {
		if pins := pinsOf(t, fs, id); slices.Contains(pins, "fork:x") {
			t.Errorf("volume %s has the pins %q", id, pins)
		}
	}
}
