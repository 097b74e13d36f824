package site_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// fork is a member of a fork as a device; nil if it is not shown.
func (o *opened) fork(name string, id journal.VolumeID) engine.Device {
	dev, _ := o.exports.devices.Load(site.ForkExport(name, id))
	d, _ := dev.(engine.Device)
	return d
}

// makeFork makes one without a wish.
func (o *opened) makeFork(t *testing.T, name, at string) site.Fork {
	t.Helper()
	f, err := o.CreateFork(context.Background(), site.NewFork{Name: name, Group: "shop", At: at})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// fillFork writes one value to the first sector of every member of a fork.
func (o *opened) fillFork(name string, value byte, fua bool) error {
	for _, id := range members {
		dev := o.fork(name, id)
		if dev == nil {
			return fmt.Errorf("fork %s does not show volume %s", name, id)
		}
		if err := dev.WriteAt(context.Background(), bytes.Repeat([]byte{value}, 512), 0, fua); err != nil {
			return err
		}
	}
	return nil
}

func (o *opened) expectFork(t *testing.T, name string, allowed ...byte) {
	t.Helper()
	for _, id := range members {
		dev := o.fork(name, id)
		if dev == nil {
			t.Errorf("fork %s does not show volume %s", name, id)
			continue
		}
		p := make([]byte, 512)
		if err := dev.ReadAt(context.Background(), p, 0); err != nil || !bytes.Contains(allowed, p[:1]) {
			t.Errorf("volume %s of fork %s holds %d, want one of %d (%v)", id, name, p[0], allowed, err)
		}
	}
}

// theFork is what is listed of a fork; nothing if it is not.
func (o *opened) theFork(name string) site.Fork {
	for _, f := range o.ListForks() {
		if f.Name == name {
			return f
		}
	}
	return site.Fork{}
}

// expectNothingOf makes sure that a fork has left no pin, no file and no export.
func (o *opened) expectNothingOf(t *testing.T, fs vfs.FS, name string) {
	t.Helper()
	points, err := o.Groups().Points(context.Background(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range points {
		if strings.Contains(strings.Join(p.Pins, " "), "fork:"+name) {
			t.Errorf("checkpoint %d is still pinned: %q", p.Checkpoint, p.Pins)
		}
	}
	if names, err := fs.ReadDir("/root/forks/" + name); !errors.Is(err, vfs.ErrNotExist) {
		t.Errorf("files of fork %s: %q, %v", name, names, err)
	}
	for _, id := range members {
		if o.fork(name, id) != nil {
			t.Errorf("fork %s still shows volume %s", name, id)
		}
	}
}

func TestForksAreWrittenWhileProductionGoesOn(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	f := s.makeFork(t, "old", "pin:before")
	if f.State != site.ForkOpen || len(f.Members) != 2 || f.QuotaBytes < site.MinForkQuota || f.HeldBytes == 0 {
		t.Errorf("made %+v", f)
	}
	s.expectFork(t, "old", 1)
	if err := errors.Join(s.fillFork("old", 7, true), s.fill(3)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Groups().TakePoint(ctx, "shop", ""); err != nil {
		t.Fatal(err)
	}
	s.makeFork(t, "new", "latest")
	if err := errors.Join(s.fill(4), s.fillFork("old", 8, false)); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s = mustOpen(t, fs)
	s.expect(t, 4)
	s.expectFork(t, "old", 8)
	s.expectFork(t, "new", 3)
	if used := s.theFork("old").UsedBytes; used == 0 {
		t.Error("the fork uses nothing after a restart")
	}
	if err := s.DeleteVolume(ctx, volumeA); !errors.Is(err, groups.ErrInUse) || !strings.Contains(err.Error(), "fork") {
		t.Errorf("delete under forks: %v, want ErrInUse", err)
	}
	if _, err := s.CreateFork(ctx, site.NewFork{Name: "old", Group: "shop", At: "latest"}); !errors.Is(err, site.ErrForkExists) {
		t.Errorf("a second fork of the name: %v", err)
	}
	for _, name := range []string{"old", "new"} {
		if !s.OwnsPin("fork:" + name) {
			t.Errorf("nobody owns the pin of %s", name)
		}
		if err := s.DiscardFork(ctx, name); err != nil {
			t.Error(err)
		}
		s.expectNothingOf(t, fs, name)
	}
	if err := s.DiscardFork(ctx, "old"); !errors.Is(err, site.ErrNoFork) {
		t.Errorf("discard twice: %v", err)
	}
	s.expect(t, 4)
	if err := s.DeleteVolume(ctx, volumeA); err != nil {
		t.Error(err)
	}
	mustClose(t, s)
}

func TestForksThatCannotBe(t *testing.T) {
	fs := vfs.NewMem()
	s := prepared(t, fs)
	for name, tt := range map[string]struct {
		n    site.NewFork
		want error
	}{
		"name":      {site.NewFork{Name: "../x", Group: "shop", At: "latest"}, site.ErrBadFork},
		"quota":     {site.NewFork{Name: "x", Group: "shop", At: "latest", QuotaBytes: site.MinForkQuota}, site.ErrBadFork},
		"age":       {site.NewFork{Name: "x", Group: "shop", At: "latest", MaxAge: time.Second}, site.ErrBadFork},
		"old age":   {site.NewFork{Name: "x", Group: "shop", At: "latest", MaxAge: 1000 * time.Hour}, site.ErrBadFork},
		"no moment": {site.NewFork{Name: "x", Group: "shop", At: "9999"}, nil},
		"no group":  {site.NewFork{Name: "x", Group: "none", At: "latest"}, nil},
	} {
		if _, err := s.CreateFork(context.Background(), tt.n); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	fs.SetCapacity(32 << 20)
	if _, err := s.CreateFork(context.Background(), site.NewFork{Name: "x", Group: "shop", At: "latest"}); !errors.Is(err, journal.ErrFull) {
		t.Errorf("on a small disk: %v, want ErrFull", err)
	}
	if forks := s.ListForks(); len(forks) != 0 {
		t.Errorf("there is %+v", forks)
	}
	s.expectNothingOf(t, fs, "x")
	mustClose(t, s)
}

// TestForkQuota fills a fork with what differs; overwriting alone never does.
func TestForkQuota(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	big := journal.VolumeID{3}
	if err := s.CreateVolume(ctx, site.NewVolume{ID: big, Name: "big", SizeBytes: 64 << 20, Group: "large", Settings: quiet()}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Groups().TakePoint(ctx, "large", ""); err != nil {
		t.Fatal(err)
	}
	quota := int64(site.MinForkQuota)
	if _, err := s.CreateFork(ctx, site.NewFork{Name: "x", Group: "large", At: "latest", QuotaBytes: quota}); err != nil {
		t.Fatal(err)
	}
	dev, p := s.fork("x", big), bytes.Repeat([]byte{9}, 128<<10)
	for written := int64(0); written < 4*quota; written += int64(len(p)) {
		if err := dev.WriteAt(ctx, p, written%(4<<20), false); err != nil {
			t.Fatalf("after %d bytes over 4 MiB: %v", written, err)
		}
	}
	var err error
	off := int64(0)
	for ; err == nil && off < 64<<20; off += int64(len(p)) {
		err = dev.WriteAt(ctx, p, off, false)
	}
	f := s.theFork("x")
	if !errors.Is(err, engine.ErrNoSpace) || off < quota/2 || f.UsedBytes > quota+4*journal.MinSegmentBytes || !f.Full || f.State != site.ForkOpen {
		t.Fatalf("after %d bytes: %v, %+v", off, err, f)
	}
	if err := dev.Flush(ctx); err != nil {
		t.Errorf("flush of a fork that is full: %v", err)
	}
	if err := dev.ReadAt(ctx, p, 0); err != nil || p[0] != 9 {
		t.Errorf("a fork that is full holds %d, %v", p[0], err)
	}
	if err := errors.Join(s.fill(5), s.exports.device(big).WriteAt(ctx, p, 0, true)); err != nil {
		t.Errorf("production beside a fork that is full: %v", err)
	}
	mustClose(t, s)
	s = mustOpen(t, fs)
	if f := s.theFork("x"); f.State != site.ForkOpen || f.UsedBytes > quota+4*journal.MinSegmentBytes || f.UsedBytes < quota/2 {
		t.Errorf("after a restart: %+v", f)
	}
	s.expect(t, 5)
	mustClose(t, s)
}

// TestForksYieldWhenSpaceIsShort: the site looks, gives up every fork, and what
// they took is free.
func TestForksYieldWhenSpaceIsShort(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	fs.SetCapacity(1 << 30)
	s.makeFork(t, "x", "pin:before")
	if err := s.fillFork("x", 7, true); err != nil {
		t.Fatal(err)
	}
	s.TendForks(ctx)
	s.expectFork(t, "x", 7) // there is room
	// Somebody else fills the file system up to where forks stop: not yet lost.
	filler, err := fs.Create("/root/filler")
	if err != nil {
		t.Fatal(err)
	}
	fill := func(upTo int64) {
		t.Helper()
		_, free, err := fs.Space("/root")
		if err == nil {
			size, _ := filler.Size()
			err = filler.Allocate(size, free-upTo)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	reserve := int64(1 << 30 / 8)
	fill(reserve + 1<<20)
	s.TendForks(ctx)
	s.expectFork(t, "x", 7)
	if _, err := s.CreateFork(ctx, site.NewFork{Name: "y", Group: "shop", At: "latest"}); !errors.Is(err, journal.ErrFull) {
		t.Errorf("a fork so near to the reserve: %v", err)
	}
	dev, p := s.fork("x", volumeA), make([]byte, 1<<20)
	for i := 0; err == nil && i < 100; i++ {
		err = dev.WriteAt(ctx, p, 0, false)
	}
	if !errors.Is(err, engine.ErrNoSpace) {
		t.Errorf("write near to the reserve: %v", err)
	}
	fill(reserve - 1<<20)
	s.TendForks(ctx)
	f := s.theFork("x")
	if f.State != site.ForkGivenUp || !strings.Contains(f.Reason, "production's") || f.Ended.IsZero() || f.UsedBytes != 0 {
		t.Errorf("%+v", f)
	}
	s.expectNothingOf(t, fs, "x")
	mustClose(t, s)
	s = mustOpen(t, fs)
	if f := s.theFork("x"); f.State != site.ForkGivenUp {
		t.Errorf("after a restart: %+v", f)
	}
	if err := s.DiscardFork(ctx, "x"); err != nil || len(s.ListForks()) != 0 {
		t.Errorf("discard what was given up: %v, %+v", err, s.ListForks())
	}
	s.expect(t, 2)
	mustClose(t, s)
}

// TestForksYieldToAWrite: production's write that finds no room takes that of the
// forks before anybody looks.
func TestForksYieldToAWrite(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	f := s.makeFork(t, "x", "pin:before")
	if err := s.fillFork("x", 7, true); err != nil {
		t.Fatal(err)
	}
	total, free, err := fs.Space("/root")
	if err != nil {
		t.Fatal(err)
	}
	fs.SetCapacity(total - free + 1<<20)
	p := bytes.Repeat([]byte{6}, 64<<10)
	for i := range 200 {
		if err := s.exports.device(volumeA).WriteAt(ctx, p, int64(i%16)<<16, true); err != nil {
			t.Fatalf("write %d of production: %v", i, err)
		}
		if f = s.theFork("x"); f.State == site.ForkGivenUp {
			break
		}
	}
	if f.State != site.ForkGivenUp {
		t.Fatalf("%+v", f)
	}
	s.expectNothingOf(t, fs, "x")
	mustClose(t, s)
}

// openAt opens a site with a clock.
func openAt(t *testing.T, fs vfs.FS, at clock.Clock) *opened {
	t.Helper()
	ex := &exports{}
	s, err := site.Open(context.Background(), site.Config{Name: "a", Root: "/root", FS: fs, Exports: ex, SegmentBytes: journal.MinSegmentBytes, Clock: at, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return &opened{s, ex}
}

func TestForksGrowOld(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	mustClose(t, prepared(t, fs))
	now := clock.NewManual(time.Now())
	s := openAt(t, fs, now)
	s.makeFork(t, "day", "pin:before")
	if _, err := s.CreateFork(ctx, site.NewFork{Name: "hour", Group: "shop", At: "pin:before", MaxAge: time.Hour}); err != nil {
		t.Fatal(err)
	}
	states := func(want string) {
		t.Helper()
		s.TendForks(ctx)
		got := ""
		for _, f := range s.ListForks() {
			got += f.Name + " " + string(f.State) + ","
		}
		if got != want {
			t.Errorf("forks are %q, want %q", got, want)
		}
	}
	now.Advance(59 * time.Minute)
	states("day open,hour open,")
	now.Advance(2 * time.Minute)
	states("day open,hour given-up,")
	if reason := s.theFork("hour").Reason; reason != "it is older than 1h0m0s" {
		t.Errorf("reason is %q", reason)
	}
	now.Advance(24 * time.Hour)
	states("day given-up,hour given-up,")
	now.Advance(6*24*time.Hour + 30*time.Minute)
	states("day given-up,")
	now.Advance(24 * time.Hour)
	states("")
	mustClose(t, s)
}

// TestForksWaitForTheirVolumes: a fork is closed while a member is reopened, and
// while one does not open, and is there again after it.
func TestForksWaitForTheirVolumes(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	disk := &unsyncedFS{FS: mem, of: volumeB.String()}
	s := prepared(t, disk)
	s.makeFork(t, "x", "pin:before")
	if err := s.fillFork("x", 7, true); err != nil {
		t.Fatal(err)
	}
	disk.fails.Store(true)
	if err := s.exports.device(volumeB).WriteAt(ctx, bytes.Repeat([]byte{5}, 512), 0, true); !errors.Is(err, engine.ErrPoisoned) {
		t.Fatalf("write whose sync fails: %v", err)
	}
	disk.fails.Store(false)
	if done, err := s.ReopenVolume(ctx, volumeB); !done || err != nil {
		t.Fatalf("reopen under a fork: %t, %v", done, err)
	}
	s.expectFork(t, "x", 7)
	mustClose(t, s)

	base := "/root/volumes/" + volumeB.String() + "/store-1/base.img"
	if err := mem.Rename(base, base+".away"); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, mem)
	if f := s.theFork("x"); f.State != site.ForkOpen || f.Err == nil {
		t.Errorf("without a member: %+v", f)
	}
	if err := mem.Rename(base+".away", base); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReopenVolume(ctx, volumeB); err != nil {
		t.Fatal(err)
	}
	s.TendForks(ctx)
	s.expectFork(t, "x", 7)
	mustClose(t, s)
}

// unsyncedFS is a disk on which the files of one volume cannot be synced for a while,
// whatever others sync meanwhile.
type unsyncedFS struct {
	vfs.FS
	of    string
	fails atomic.Bool
}

func (d *unsyncedFS) Open(name string) (vfs.File, error)   { return d.file(name)(d.FS.Open(name)) }
func (d *unsyncedFS) Create(name string) (vfs.File, error) { return d.file(name)(d.FS.Create(name)) }

func (d *unsyncedFS) file(name string) func(vfs.File, error) (vfs.File, error) {
	return func(f vfs.File, err error) (vfs.File, error) {
		if err != nil || !strings.Contains(name, d.of) {
			return f, err
		}
		return unsyncedFile{f, d}, nil
	}
}

type unsyncedFile struct {
	vfs.File
	disk *unsyncedFS
}

func (f unsyncedFile) Sync() error {
	if f.disk.fails.Load() {
		return errors.New("disk says no")
	}
	return f.File.Sync()
}

// TestAnImageTakesTheForksOfItsVolume: replication does not wait for forks.
func TestAnImageTakesTheForksOfItsVolume(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	demoted(t, s)
	s.makeFork(t, "x", "pin:before") // of a replica
	if err := s.fillFork("x", 7, true); err != nil {
		t.Fatal(err)
	}
	line := journal.Timeline{ID: 99, Reason: "created"}
	im, err := s.Replicas().Import(ctx, "shop", replication.ImageSpec{Volume: volumeA, SizeBytes: volumeBytes, At: journal.Position{Timeline: 99, Seq: 7}, Timelines: []journal.Timeline{line}})
	if err != nil {
		t.Fatal(err)
	}
	if err := im.WriteAt(bytes.Repeat([]byte{9}, 512), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := im.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if f := s.theFork("x"); f.State != site.ForkGivenUp || !strings.Contains(f.Reason, "image") {
		t.Errorf("%+v", f)
	}
	s.expectNothingOf(t, fs, "x")
	mustClose(t, s)
}
