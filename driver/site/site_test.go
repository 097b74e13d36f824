package site_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const volumeBytes = 8 << 20

var (
	volumeA = journal.VolumeID{1}
	volumeB = journal.VolumeID{2}
	members = []journal.VolumeID{volumeA, volumeB}
)

// exports keeps the live devices that a site shows, so that tests can write
// without a kernel.
type exports struct {
	devices sync.Map
	clients sync.Map // how many use an export, where it is not nobody
}

func (e *exports) Clients(name string) int {
	n, _ := e.clients.Load(name)
	count, _ := n.(int)
	return count
}

func (e *exports) Add(name string, dev engine.Device, _ string) error {
	e.devices.Store(name, dev)
	return nil
}

func (e *exports) Remove(_ context.Context, name string) error {
	e.devices.Delete(name)
	return nil
}

// device is nil for a volume that is not open.
func (e *exports) device(id journal.VolumeID) engine.Device {
	dev, _ := e.devices.Load(id.String())
	d, _ := dev.(engine.Device)
	return d
}

// opened is a site with its devices.
type opened struct {
	*site.Site
	exports *exports
}

// log keeps what the site says until a test fails.
var log bytes.Buffer

func openSite(fs vfs.FS) (*opened, error) {
	log.Reset()
	ex := &exports{}
	s, err := site.Open(context.Background(), site.Config{Name: "a", Root: "/root", FS: fs, Exports: ex, SegmentBytes: journal.MinSegmentBytes,
		Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		return nil, err
	}
	return &opened{s, ex}, nil
}

func mustOpen(t *testing.T, fs vfs.FS) *opened {
	t.Helper()
	s, err := openSite(fs)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// quiet settings: the only checkpoints are those that a test takes.
func quiet() group.Settings {
	return group.Settings{CheckpointInterval: time.Hour, BarrierTimeout: 5 * time.Second}.WithDefaults()
}

func (o *opened) create(id journal.VolumeID, image *site.Image) error {
	return o.CreateVolume(context.Background(), site.NewVolume{ID: id, Name: id.String(), SizeBytes: volumeBytes, Group: "shop", Settings: quiet(), Image: image})
}

// fill writes one value to the first sector of every member, in order.
func (o *opened) fill(value byte) error {
	for _, id := range members {
		dev := o.exports.device(id)
		if dev == nil {
			return fmt.Errorf("volume %s is not open", id)
		}
		if err := dev.WriteAt(context.Background(), bytes.Repeat([]byte{value}, 512), 0, true); err != nil {
			return err
		}
	}
	return nil
}

func (o *opened) content(t *testing.T, id journal.VolumeID) byte {
	t.Helper()
	dev := o.exports.device(id)
	if dev == nil {
		t.Fatalf("volume %s is not open: %s", id, log.String())
	}
	p := make([]byte, 512)
	if err := dev.ReadAt(context.Background(), p, 0); err != nil {
		t.Fatal(err)
	}
	return p[0]
}

func (o *opened) expect(t *testing.T, want byte) {
	t.Helper()
	for _, id := range members {
		if got := o.content(t, id); got != want {
			t.Errorf("volume %s holds %d, want %d", id, got, want)
		}
	}
}

// prepared makes a site with two members that held 1 at a pinned point and
// now hold 2.
func prepared(t *testing.T, fs vfs.FS) *opened {
	t.Helper()
	s := mustOpen(t, fs)
	for _, id := range members {
		if err := s.create(id, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.fill(1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Groups().TakePoint(context.Background(), "shop", "before"); err != nil {
		t.Fatal(err)
	}
	if err := s.fill(2); err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClose(t *testing.T, s *opened) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRewindUndoCommit(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	if _, err := s.Groups().StartRewind(ctx, "shop", "pin:before", true); err != nil {
		t.Fatal(err)
	}
	s.expect(t, 2) // a dry run changes nothing
	if _, err := s.Groups().StartRewind(ctx, "shop", "pin:before", false); err != nil {
		t.Fatal(err)
	}
	s.expect(t, 1)
	if _, err := s.Groups().StartRewind(ctx, "shop", "latest", false); !errors.Is(err, group.ErrRewindOpen) {
		t.Errorf("second rewind: %v, want ErrRewindOpen", err)
	}
	if err := s.fill(3); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s = mustOpen(t, fs)
	s.expect(t, 3)
	if _, err := s.Groups().UndoRewind(ctx, "shop", false); err != nil {
		t.Fatal(err)
	}
	s.expect(t, 2)
	if _, err := s.Groups().StartRewind(ctx, "shop", "pin:before", false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Groups().CommitRewind(ctx, "shop", false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Groups().UndoRewind(ctx, "shop", false); !errors.Is(err, group.ErrNoRewind) {
		t.Errorf("undo after commit: %v, want ErrNoRewind", err)
	}
	s.expect(t, 1)
	if err := s.fill(4); err != nil {
		t.Errorf("write after commit: %v", err)
	}
	mustClose(t, s)
}

func TestNumbersRiseOverARewindAndARestart(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	for range 5 {
		if _, _, err := s.Groups().TakePoint(ctx, "shop", ""); err != nil {
			t.Fatal(err)
		}
	}
	newest, err := s.Groups().Select(context.Background(), "shop", "latest")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Groups().StartRewind(ctx, "shop", "pin:before", false); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s = mustOpen(t, fs)
	p, _, err := s.Groups().TakePoint(ctx, "shop", "")
	if err != nil || p.Checkpoint <= newest.Checkpoint {
		t.Errorf("checkpoint %d after the rewind, %v: want more than %d", p.Checkpoint, err, newest.Checkpoint)
	}
	mustClose(t, s)
}

func TestRestoredImageIsThatOfThePoint(t *testing.T) {
	s := prepared(t, vfs.NewMem())
	restored := journal.VolumeID{9}
	n := site.NewVolume{ID: restored, Name: "restored", SizeBytes: 2 * volumeBytes, Group: "other", Settings: quiet(), Image: &site.Image{Member: volumeB, Pin: "before"}}
	if err := s.CreateVolume(context.Background(), n); err != nil {
		t.Fatal(err)
	}
	if got := s.content(t, restored); got != 1 {
		t.Errorf("restored volume holds %d, want 1", got)
	}
	// The source may go; its pinned image stays for as long as it is retired.
	if err := s.RetireVolume(context.Background(), volumeB); err != nil {
		t.Fatal(err)
	}
	n.ID, n.Name = journal.VolumeID{10}, "again"
	if err := s.CreateVolume(context.Background(), n); err != nil {
		t.Fatal(err)
	}
	if got := s.content(t, n.ID); got != 1 {
		t.Errorf("volume restored from a retired one holds %d, want 1", got)
	}
	mustClose(t, s)
}

func TestViewsShowThePastAndHoldTheirVolumes(t *testing.T) {
	ctx := context.Background()
	s := prepared(t, vfs.NewMem())
	v, err := s.OpenView(ctx, "shop", "pin:before")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range members {
		dev, err := s.ViewDevice(v.ID, id)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 512)
		if err := dev.ReadAt(ctx, p, 0); err != nil || p[0] != 1 {
			t.Errorf("view of %s holds %d, %v, want 1", id, p[0], err)
		}
	}
	if err := s.DeleteVolume(ctx, volumeA); !errors.Is(err, groups.ErrInUse) {
		t.Errorf("delete under a view: %v, want ErrInUse", err)
	}
	if err := s.CloseView(v.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseView(v.ID); !errors.Is(err, site.ErrNoView) {
		t.Errorf("close twice: %v, want ErrNoView", err)
	}
	if err := s.DeleteVolume(ctx, volumeA); err != nil {
		t.Error(err)
	}
	mustClose(t, s)
}

// rewound leaves a rewind open.
func rewound(s *opened) error {
	_, err := s.Groups().StartRewind(context.Background(), "shop", "pin:before", false)
	return err
}

// Every operation is cut off at its k-th change of the disk, for every k, by a
// power loss that keeps a random part of what was not synced. The site then
// opens, and the group is on one side of the operation as a whole.
func TestCrashAnywhere(t *testing.T) {
	ctx := context.Background()
	tests := []struct {
		name string
		op   func(*opened) error
		// before brings the site to where the operation makes sense.
		before func(*opened) error
		// allowed are the contents that all members may hold together.
		allowed []byte
		// repeated, the operation must succeed, or already be done.
		done error
	}{
		{name: "rewind", allowed: []byte{1, 2}, done: group.ErrRewindOpen,
			op: func(s *opened) error { _, err := s.Groups().StartRewind(ctx, "shop", "pin:before", false); return err }},
		{name: "undo", allowed: []byte{1, 2}, done: group.ErrNoRewind, before: rewound,
			op: func(s *opened) error { _, err := s.Groups().UndoRewind(ctx, "shop", false); return err }},
		{name: "commit", allowed: []byte{1}, done: group.ErrNoRewind, before: rewound,
			op: func(s *opened) error { _, err := s.Groups().CommitRewind(ctx, "shop", false); return err }},
		{name: "failover", allowed: []byte{1, 2}, done: group.ErrRole,
			before: func(s *opened) error { return s.follow(2, members, nil) },
			op:     func(s *opened) error { _, err := s.Groups().Failover(ctx, "shop", "pin:before", false); return err }},
		{name: "pin", allowed: []byte{2}, done: journal.ErrPinExists,
			op: func(s *opened) error { _, _, err := s.Groups().TakePoint(ctx, "shop", "now"); return err }},
		{name: "create from image", allowed: []byte{2},
			op: func(s *opened) error {
				return s.create(journal.VolumeID{3}, &site.Image{Member: volumeA, Pin: "before"})
			}},
		{name: "expand", allowed: []byte{2},
			op: func(s *opened) error { return s.ExpandVolume(ctx, volumeA, 2*volumeBytes) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			crashed := 0
			for k := int64(1); ; k++ {
				mem := vfs.NewMem()
				fault := vfs.NewFault(mem)
				s := prepared(t, fault)
				if tt.before != nil {
					if err := tt.before(s); err != nil {
						t.Fatal(err)
					}
				}
				fault.CrashAt(fault.Count() + k)
				err := tt.op(s)
				_ = s.Close() // of no use once the disk is gone
				if !fault.Crashed() {
					if err != nil {
						t.Fatalf("without a crash: %v", err)
					}
					break
				}
				crashed++
				disk := mem.Crash(rand.New(rand.NewPCG(uint64(k), 7)))
				after := mustOpen(t, disk)
				if g, err := after.Groups().Summary(context.Background(), "shop"); err != nil || g.State.Role == group.RoleReplica && g.State.Term != 2 || g.State.Pending != nil {
					t.Fatalf("k=%d: %+v, %v: a replica at a term that it was promoted to", k, g.State, err)
				}
				first := after.content(t, volumeA)
				if !bytes.Contains(tt.allowed, []byte{first}) {
					t.Fatalf("k=%d: volume A holds %d", k, first)
				}
				after.expect(t, first)
				if err := tt.op(after); err != nil && !(tt.done != nil && errors.Is(err, tt.done)) {
					t.Fatalf("k=%d: repeated: %v", k, err)
				}
				mustClose(t, after)
				for _, id := range members {
					if pins := rewindPins(t, disk, id); tt.done == group.ErrNoRewind && len(pins) != 0 {
						t.Fatalf("k=%d: the rewind is over and volume %s keeps %v", k, id, pins)
					}
				}
			}
			if crashed < 3 {
				t.Fatalf("only %d places to crash at", crashed)
			}
		})
	}
}

// A recovery point that lacks a member would be none: while one is not open,
// the others serve and no point comes into being.
func TestNoPointWithoutAMember(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	mustClose(t, s)
	if err := fs.Remove("/root/volumes/" + volumeB.String() + "/store-1/base.img"); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, fs)
	before, err := s.Groups().Points(context.Background(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	dev := s.exports.device(volumeA)
	if err := dev.WriteAt(ctx, make([]byte, 512), 0, true); err != nil {
		t.Errorf("write to the member that is open: %v", err)
	}
	if _, _, err := s.Groups().TakePoint(ctx, "shop", ""); !errors.Is(err, group.ErrBarrier) {
		t.Errorf("take a point: %v, want ErrBarrier", err)
	}
	after, err := s.Groups().Points(context.Background(), "shop")
	if err != nil || len(after) > len(before) {
		t.Errorf("%d points after, %d before, %v", len(after), len(before), err)
	}
	mustClose(t, s)
}
