package site_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// stuckDisk holds up the next append, once it is armed, until it is released.
type stuckDisk struct {
	vfs.FS
	armed          atomic.Bool
	stuck, release chan struct{}
}

func (d *stuckDisk) Create(name string) (vfs.File, error) {
	f, err := d.FS.Create(name)
	return stuckFile{f, d}, err
}

func (d *stuckDisk) Open(name string) (vfs.File, error) {
	f, err := d.FS.Open(name)
	return stuckFile{f, d}, err
}

type stuckFile struct {
	vfs.File
	disk *stuckDisk
}

func (f stuckFile) WriteVecAt(bufs [][]byte, off int64) (int, error) {
	if f.disk.armed.CompareAndSwap(true, false) {
		close(f.disk.stuck)
		<-f.disk.release
	}
	return f.File.WriteVecAt(bufs, off)
}

// TestASlowDiskCostsNoPoint: a point that somebody asked for is tried again when
// a write held its barrier up for too long.
func TestASlowDiskCostsNoPoint(t *testing.T) {
	ctx := context.Background()
	disk := &stuckDisk{FS: vfs.NewMem(), stuck: make(chan struct{}), release: make(chan struct{})}
	s := mustOpen(t, disk)
	settings := group.Settings{CheckpointInterval: time.Hour, BarrierTimeout: 500 * time.Millisecond}
	for _, id := range members {
		if err := s.CreateVolume(ctx, site.NewVolume{ID: id, Name: id.String(), SizeBytes: volumeBytes, Group: "shop", Settings: settings}); err != nil {
			t.Fatal(err)
		}
	}
	disk.armed.Store(true)
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.exports.device(volumeB).WriteAt(ctx, make([]byte, 512), 0, false); err != nil {
			t.Error(err)
		}
	})
	<-disk.stuck
	running.Go(func() {
		defer close(disk.release)
		for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
			if g, err := s.Groups().Summary(context.Background(), "shop"); err != nil || g.Stats.Aborted > 0 {
				return
			}
		}
	})
	p, _, err := s.Groups().TakePoint(ctx, "shop", "now")
	running.Wait()
	if err != nil || len(p.Members) != 2 {
		t.Errorf("point %+v, %v", p, err)
	}
	mustClose(t, s)
}

// TestAPinThatIsThereIsNotTakenForOneOfNow: who gives the name "before-upgrade" a second
// time would else be told of a point that was taken now, and go back to the one of the
// last upgrade.
func TestAPinThatIsThereIsNotTakenForOneOfNow(t *testing.T) {
	ctx := context.Background()
	s := prepared(t, vfs.NewMem())
	before, err := s.Groups().Select(ctx, "shop", "pin:before")
	if err != nil {
		t.Fatal(err)
	}
	if p, _, err := s.Groups().TakePoint(ctx, "shop", "before"); !errors.Is(err, journal.ErrPinExists) || p.Checkpoint != before.Checkpoint {
		t.Errorf("the pin again: point %d, %v; want ErrPinExists, which keeps %d", p.Checkpoint, err, before.Checkpoint)
	}
	if p, err := s.Groups().PinPoint(ctx, "shop", "before", ""); err != nil || p.Checkpoint != before.Checkpoint {
		t.Errorf("a snapshot's pin again: point %d, %v; want %d", p.Checkpoint, err, before.Checkpoint)
	}
	mustClose(t, s)
}

// TestAPinThatIsCompletedSaysSo: a command that was cut off has pinned some of the volumes, and
// the same one again pins the others. No more is said than that, and not that nothing was done;
// a third one finds the name taken.
func TestAPinThatIsCompletedSaysSo(t *testing.T) {
	ctx, fs := context.Background(), vfs.NewMem()
	s := prepared(t, fs)
	before, err := s.Groups().Select(ctx, "shop", "pin:before")
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	store, err := journal.Open(journal.Config{FS: fs, Dir: "/root/volumes/" + volumeB.String() + "/store-1", SegmentBytes: journal.MinSegmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(store.Unpin("before"), store.Close()); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, fs)
	for _, completed := range []bool{true, false} {
		p, _, err := s.Groups().TakePoint(ctx, "shop", "before")
		if !errors.Is(err, journal.ErrPinExists) || errors.Is(err, groups.ErrPinCompleted) != completed || p.Checkpoint != before.Checkpoint {
			t.Errorf("point %d, %v; want point %d, and as completed: %v", p.Checkpoint, err, before.Checkpoint, completed)
		}
	}
	mustClose(t, s)
}
