package site_test

import (
	"context"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// TestAPointHasTheSizesOfItsMoment: a point before an expansion restores to
// the size it had; a rewind to it leaves the device as large as it is.
func TestAPointHasTheSizesOfItsMoment(t *testing.T) {
	ctx := context.Background()
	s := prepared(t, vfs.NewMem())
	if err := s.ExpandVolume(ctx, volumeA, 2*volumeBytes); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Groups().PinPoint(ctx, "shop", "after", ""); err != nil {
		t.Fatal(err)
	}
	want := func(at string, a int64) {
		t.Helper()
		point, err := s.Groups().Select(context.Background(), "shop", at)
		if err != nil {
			t.Fatal(err)
		}
		sizes, err := s.PointSizes(point)
		if err != nil || sizes[volumeA] != a || sizes[volumeB] != volumeBytes {
			t.Errorf("sizes at %s are %v, %v; want %d and %d", at, sizes, err, a, volumeBytes)
		}
	}
	want("pin:before", volumeBytes)
	want("pin:after", 2*volumeBytes)
	restore := func(id journal.VolumeID, pin string) error {
		return s.create(id, &site.Image{Member: volumeA, Pin: pin}) // of volumeBytes
	}
	if err := restore(journal.VolumeID{3}, "before"); err != nil {
		t.Errorf("restore to the size of the moment: %v", err)
	}
	if err := restore(journal.VolumeID{4}, "after"); !errors.Is(err, journal.ErrRange) {
		t.Errorf("restore to less than the size of the moment: %v, want ErrRange", err)
	}
	if _, err := s.Groups().StartRewind(ctx, "shop", "pin:before", false); err != nil {
		t.Fatal(err)
	}
	s.expect(t, 1)
	if got := s.exports.device(volumeA).SizeBytes(); got != 2*volumeBytes {
		t.Errorf("the device has %d bytes after the rewind, want %d", got, 2*volumeBytes)
	}
	if _, err := s.Groups().PinPoint(ctx, "shop", "rewound", ""); err != nil {
		t.Fatal(err)
	}
	want("pin:rewound", 2*volumeBytes) // the snapshot of a device is as large as the device
	if _, err := s.Groups().UndoRewind(ctx, "shop", false); err != nil {
		t.Fatal(err)
	}
	s.expect(t, 2)
	want("pin:before", volumeBytes)
	mustClose(t, s)
}
