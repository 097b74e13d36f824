package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// fullRig is a store on a simulated disk of a bounded size, with base, journal
// and catalog beside each other, and a clock that only the test moves.
type fullRig struct {
	t     *testing.T
	mem   *vfs.Mem
	fault *vfs.Fault
	clock *clock.Manual
	lines *lineCounter
	cfg   Config
	s     *Store
	point CheckpointNumber
}

// lineCounter counts what is logged.
type lineCounter struct {
	mu    sync.Mutex
	lines []string
}

func (l *lineCounter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

func (l *lineCounter) count(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// newFullRig makes a volume of testVolumeBytes on a disk of so many segments.
func newFullRig(t *testing.T, segments int64, change func(*Config)) *fullRig {
	t.Helper()
	r := &fullRig{t: t, mem: vfs.NewMem(), clock: clock.NewManual(worldStart), lines: &lineCounter{}}
	r.fault = vfs.NewFault(r.mem)
	r.cfg = Config{
		FS: r.fault, Dir: worldDir, Clock: r.clock, SegmentBytes: MinSegmentBytes,
		Log: slog.New(slog.NewTextHandler(r.lines, nil)),
	}
	if change != nil {
		change(&r.cfg)
	}
	makeParent(t, r.mem)
	if err := Create(r.cfg, Spec{testVolume, testVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	r.mem.SetCapacity(segments * MinSegmentBytes)
	r.s = mustOpen(t, r.cfg)
	return r
}

// write does what an engine does: it gives up history and tries once more.
func (r *fullRig) write(b byte, off int64) error {
	p := bytes.Repeat([]byte{b}, 32<<10)
	_, err := r.s.Write(p, off)
	if errors.Is(err, ErrFull) {
		if _, reclaimErr := r.s.Reclaim(context.Background()); reclaimErr == nil {
			_, err = r.s.Write(p, off)
		}
	}
	return err
}

// mustWrite writes n segments' worth all over the first bytes of the volume,
// with a checkpoint for each segment.
func (r *fullRig) mustWrite(n int, hot int64, b byte) {
	r.t.Helper()
	for i := range n * MinSegmentBytes / (32 << 10) {
		if err := r.write(b, int64(i)*(32<<10)%hot); err != nil {
			r.t.Fatalf("write %d of %d segments: %v", i, n, err)
		}
		if i%8 == 7 {
			r.clock.Advance(time.Second)
			if err := r.checkpoint(); err != nil && !errors.Is(err, ErrFull) {
				r.t.Fatal(err)
			}
		}
	}
}

func (r *fullRig) checkpoint() error {
	r.point++
	_, err := r.s.Checkpoint(Checkpoint{
		Number: r.point, Time: r.clock.Now(), CheckpointInfo: CheckpointInfo{Group: "shop", Members: []VolumeID{testVolume}},
	})
	return err
}

func (r *fullRig) files() int {
	r.t.Helper()
	names, err := r.mem.ReadDir(worldDir + "/" + journalDir)
	if err != nil {
		r.t.Fatal(err)
	}
	return len(names)
}

// A journal that has filled the disk, with nothing in the base so far, must
// give way to writes: what is destaged needs room in the base first.
func TestHistoryThatFillsTheDiskGivesWay(t *testing.T) {
	for _, segments := range []int64{6, 12, 40} {
		t.Run(fmt.Sprintf("%d segments", segments), func(t *testing.T) {
			r := newFullRig(t, segments, nil)
			const hot = 2 * MinSegmentBytes
			r.mustWrite(100, hot, 7)
			if err := r.s.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, r.s, hot); !bytes.Equal(got, bytes.Repeat([]byte{7}, hot)) {
				t.Error("content differs")
			}
			mustClose(t, r.s)
		})
	}
}

// hours makes rounds of what goes on in a volume, each a minute long, while its
// disk is full: writes, flushes, checkpoints, maintenance. Writes and checkpoints
// may be refused for lack of space, and nothing else may fail.
func (r *fullRig) hours(rounds int, b byte) (written int) {
	r.t.Helper()
	ctx := context.Background()
	for i := range rounds {
		for j := range 20 {
			err := r.write(b, int64(i*20+j)*(32<<10)%testVolumeBytes)
			switch {
			case err == nil:
				written++
			case !errors.Is(err, ErrFull):
				r.t.Fatalf("round %d: write: %v", i, err)
			}
			if err := r.s.Flush(ctx); err != nil {
				r.t.Fatalf("round %d: flush: %v", i, err)
			}
			r.clock.Advance(3 * time.Second)
		}
		if err := r.checkpoint(); err != nil && !errors.Is(err, ErrFull) {
			r.t.Fatalf("round %d: checkpoint: %v", i, err)
		}
		if err := r.s.Maintain(ctx); err != nil && !errors.Is(err, ErrFull) {
			r.t.Fatalf("round %d: maintain: %v", i, err)
		}
	}
	return written
}

// fillOutside takes what is free on the disk away, as another user of it would.
func (r *fullRig) fillOutside() vfs.File {
	r.t.Helper()
	f, err := r.mem.Create("ballast")
	if err != nil {
		r.t.Fatal(err)
	}
	_, free, err := r.mem.Space(".")
	if err == nil {
		err = f.Allocate(0, free&^(sectorsPerBlock*SectorBytes-1))
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

const sectorsPerBlock = 8

// TestFullForHours: somebody else has filled the disk, for six hours. In one case
// there is history to give up, in the other all of it is pinned.
func TestFullForHours(t *testing.T) {
	for _, pinned := range []bool{false, true} {
		t.Run(map[bool]string{false: "with history", true: "with a pin"}[pinned], func(t *testing.T) {
			r := newFullRig(t, 100, func(cfg *Config) { cfg.youngExtents = 32 })
			ctx := context.Background()
			r.mustWrite(1, testVolumeBytes/4, 1)
			if err := r.s.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			if pinned {
				if err := r.s.Pin("kept", r.s.Tip()); err != nil {
					t.Fatal(err)
				}
			}
			r.mustWrite(20, testVolumeBytes/4, 1)
			if err := errors.Join(r.s.Flush(ctx), r.s.Maintain(ctx)); err != nil {
				t.Fatal(err)
			}
			ballast := r.fillOutside()
			if written := r.hours(30, 2); written == 0 {
				t.Error("nothing was written although there is a segment in reserve")
			}
			r.checkFlat(330)
			if pinned {
				if err := r.s.Unpin("kept"); err != nil {
					t.Fatal(err)
				}
				if err := r.write(3, 0); err != nil {
					t.Errorf("write after the pin went: %v", err)
				}
			}
			r.checkComesBack(ballast)
		})
	}
}

// checkFlat makes rounds of a minute, and sees that they leave no traces.
func (r *fullRig) checkFlat(rounds int) {
	t := r.t
	t.Helper()
	before, files, lines := r.s.Stats(), r.files(), r.lines.count("")
	written, creates, writes := 0, r.fault.Count(vfs.OpCreate), r.fault.Count(vfs.OpWrite, vfs.OpAllocate, vfs.OpCommit)
	written = r.hours(rounds, 3)
	st := r.s.Stats()
	lines, creates = r.lines.count("")-lines, r.fault.Count(vfs.OpCreate)-creates
	writes = r.fault.Count(vfs.OpWrite, vfs.OpAllocate, vfs.OpCommit) - writes
	t.Logf("%d rounds: %d written, %d refused, %d creates, %d writes but of records, %d lines", rounds, written, st.Space.Refused-before.Space.Refused, creates, writes, lines)
	switch {
	case st.Space.ShortSince.IsZero() || written == 0 && st.Space.Refused == before.Space.Refused:
		t.Errorf("the store does not know that its disk is full: %+v", st.Space)
	case r.files() > files+2:
		t.Errorf("%d files in the journal, %d before", r.files(), files)
	case st.IndexBytes > 2*before.IndexBytes+(64<<10):
		t.Errorf("the index takes %d bytes, %d before", st.IndexBytes, before.IndexBytes)
	case lines > 3*(rounds/10+1):
		t.Errorf("%d lines were logged in %d minutes", lines, rounds)
	}
	// An attempt in vain is repeated every 30 s: an append, its Reclaim, and
	// maintenance each try a file. What is written takes a segment for every
	// eight writes, and what goes with it.
	if bound := int64(2*3*rounds + written); creates > bound {
		t.Errorf("%d files were made, want %d at most", creates, bound)
	}
	if bound := int64(20*rounds + 8*written); writes > bound {
		t.Errorf("%d writes, allocations and commits, want %d at most", writes, bound)
	}
}

// checkComesBack frees the disk: all goes on, and by itself.
func (r *fullRig) checkComesBack(ballast vfs.File) {
	t := r.t
	t.Helper()
	ctx := context.Background()
	if err := ballast.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if err := r.write(9, 0); err != nil {
		t.Fatalf("first write after space came back: %v", err)
	}
	if err := r.s.Maintain(ctx); err != nil { // a batch may have been interrupted
		t.Fatal(err)
	}
	horizon := r.s.Horizon()
	r.mustWrite(10, testVolumeBytes/4, 9)
	if err := r.checkpoint(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r.clock.Advance(time.Minute)
		if err := r.s.Maintain(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if now := r.s.Horizon(); now != horizon {
		t.Errorf("the horizon went on from %s to %s although there is room", horizon, now)
	}
	if st := r.s.Stats().Space; !st.ShortSince.IsZero() {
		t.Errorf("still short of space: %+v", st)
	}
	if n := r.lines.count("has room again"); n != 1 {
		t.Errorf("the end was logged %d times", n)
	}
	want := readAll(t, r.s, testVolumeBytes)
	mustClose(t, r.s)
	r.s = mustOpen(t, r.cfg)
	if !bytes.Equal(readAll(t, r.s, testVolumeBytes), want) {
		t.Error("content differs after a close and an open")
	}
	mustClose(t, r.s)
}

// A store that is killed while its disk is full opens while it is full, with all
// that was acknowledged.
func TestKilledAndOpenedWhileFull(t *testing.T) {
	for _, how := range []string{"kill", "power loss"} {
		t.Run(how, func(t *testing.T) {
			r := newFullRig(t, 30, nil)
			ctx := context.Background()
			r.mustWrite(8, testVolumeBytes/4, 1)
			r.fillOutside()
			r.hours(10, 2)
			want := readAll(t, r.s, testVolumeBytes)
			if err := r.s.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			mem := r.mem.KillClone()
			if how == "power loss" {
				mem = r.mem.CrashWith(nil, vfs.CrashOptions{LoseAll: true})
			}
			_ = r.s.Close() // of a machine that is no more
			cfg := r.cfg
			cfg.FS = mem
			s := mustOpen(t, cfg)
			if !bytes.Equal(readAll(t, s, testVolumeBytes), want) {
				t.Error("content differs")
			}
			if _, err := s.Write(make([]byte, SectorBytes), 0); err != nil && !errors.Is(err, ErrFull) {
				t.Errorf("write: %v", err)
			}
			mem.SetCapacity(1 << 40)
			if _, err := s.Write(make([]byte, SectorBytes), 0); err != nil {
				t.Errorf("write after space came back: %v", err)
			}
			mustClose(t, s)
		})
	}
}

// A disk that is full because of a pin is so until the pin goes, and not longer:
// nobody has to make room.
func TestAPinThatFillsTheDisk(t *testing.T) {
	r := newFullRig(t, 24, nil)
	ctx := context.Background()
	r.mustWrite(2, testVolumeBytes/4, 1)
	if err := r.s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	at := r.s.Tip()
	if err := r.s.Pin("kept", at); err != nil {
		t.Fatal(err)
	}
	want := readAll(t, r.s, testVolumeBytes)
	r.hours(60, 2)
	if r.s.Stats().Space.Refused == 0 {
		t.Fatal("the pin did not fill the disk")
	}
	v, err := r.s.View(at)
	if err != nil {
		t.Fatalf("what is pinned was given up: %v", err)
	}
	if !bytes.Equal(readAll(t, v, testVolumeBytes), want) {
		t.Error("what is pinned differs")
	}
	if err := errors.Join(v.Close(), r.s.Unpin("kept")); err != nil {
		t.Fatal(err)
	}
	r.mustWrite(30, testVolumeBytes/4, 3)
	mustClose(t, r.s)
}

// No more history is given up than what is written needs, and what a replica has
// yet to read goes last.
func TestOrderOfSacrifice(t *testing.T) {
	r := newFullRig(t, 40, func(cfg *Config) { cfg.runStep = 1 })
	ctx := context.Background()
	r.mustWrite(20, testVolumeBytes/8, 1)
	if err := errors.Join(r.s.Flush(ctx), r.s.Maintain(ctx)); err != nil {
		t.Fatal(err)
	}
	reader, err := r.s.Records(r.s.Durable())
	if err != nil {
		t.Fatal(err)
	}
	runs, from := len(r.s.runs.keys()), r.s.Horizon()
	if runs == 0 {
		t.Fatal("there are no index runs")
	}
	for r.s.Stats().Space.ShortSince.IsZero() {
		r.mustWrite(1, testVolumeBytes/8, 2)
	}
	if n := len(r.s.runs.keys()); n >= runs {
		t.Errorf("%d of %d index runs are left", n, runs)
	}
	r.mustWrite(2, testVolumeBytes/8, 2)
	if r.s.Horizon() == from {
		t.Error("no history was given up")
	}
	if st := r.s.Stats(); st.JournalBytes < 20*MinSegmentBytes {
		t.Errorf("%d bytes of history are left on a disk of %d: more was given up than needed", st.JournalBytes, 40*MinSegmentBytes)
	}
	if err := r.s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Next(ctx); err != nil {
		t.Errorf("the replica lost its place before it had to: %v", err)
	}
	r.mustWrite(60, testVolumeBytes/8, 3) // the application comes first all the same
	if _, err := reader.Next(ctx); !errors.Is(err, ErrHorizon) {
		t.Errorf("a replica that stands still has its place: %v", err)
	}
	reader.Close()
	r.mem.SetCapacity(1 << 40)
	for range 3 {
		r.clock.Advance(time.Minute)
		if err := r.s.Maintain(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.s.runs.keys()) == 0 {
		t.Error("index runs were not made again")
	}
	mustClose(t, r.s)
}

// A catalog whose commits find no room is given the reserve's.
func TestCatalogWithoutRoom(t *testing.T) {
	for _, cause := range []string{"append", "seal", "destage"} {
		t.Run(cause, func(t *testing.T) {
			r := newFullRig(t, 100, nil)
			ctx := context.Background()
			r.mustWrite(8, testVolumeBytes/4, 1)
			if err := errors.Join(r.s.Flush(ctx), r.s.Maintain(ctx)); err != nil {
				t.Fatal(err)
			}
			if cause == "append" {
				mustClose(t, r.s)
				r.s = mustOpen(t, r.cfg)
			}
			reserve := len(r.s.free)
			r.fault.FailAt(r.fault.Count(vfs.OpCommit)+1, vfs.ErrNoSpace, vfs.OpCommit)
			switch cause {
			case "append":
				if err := r.write(2, 0); err != nil {
					t.Fatalf("write: %v", err)
				}
			case "seal":
				r.mustWrite(2*maxUnsealed, testVolumeBytes/4, 2)
			case "destage":
				if _, err := r.s.Reclaim(ctx); err != nil {
					t.Fatal(err)
				}
				r.s.cfg.JournalBytes = 2 * MinSegmentBytes
				if err := r.s.Maintain(ctx); err != nil {
					t.Fatal(err)
				}
			}
			if reserve == 0 {
				t.Error("there was no reserve")
			}
			if err := r.s.Flush(ctx); err != nil {
				t.Error(err)
			}
			mustClose(t, r.s)
		})
	}
}

// What opens after a kill enters what it found into the catalog, and has the room
// of the files that nobody writes to any more for it.
func TestCatalogWithoutRoomAtOpen(t *testing.T) {
	r := newFullRig(t, 100, nil)
	r.mustWrite(8, testVolumeBytes/4, 1)
	if err := r.s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	want := readAll(t, r.s, testVolumeBytes)
	fault := vfs.NewFault(r.mem.KillClone())
	mustClose(t, r.s)
	fault.FailAt(1, vfs.ErrNoSpace, vfs.OpCommit)
	r.cfg.FS = fault
	s := mustOpen(t, r.cfg)
	if !bytes.Equal(readAll(t, s, testVolumeBytes), want) {
		t.Error("content differs")
	}
	mustClose(t, s)
}

// A file system, or a quota that it shows as its size, that is smaller than volume
// and budget is named when the store opens.
func TestSmallDiskIsNamed(t *testing.T) {
	for segments, want := range map[int64]int{16: 1, 32: 0} { // the volume is 16
		r := newFullRig(t, segments, func(cfg *Config) { cfg.JournalBytes = 8 * MinSegmentBytes })
		if n := r.lines.count("is smaller than what is to be kept on it"); n != want {
			t.Errorf("%d segments: named %d times, want %d", segments, n, want)
		}
		if got := r.s.ShortByBytes(); got != int64(want)*8*MinSegmentBytes {
			t.Errorf("%d segments: short by %d bytes", segments, got)
		}
		for budget, want := range map[int64]int64{20 * MinSegmentBytes: max(0, 36-segments) * MinSegmentBytes, 0: 0} {
			r.s.SetRetention(Retention{JournalBytes: budget})
			if got := r.s.ShortByBytes(); got != want {
				t.Errorf("%d segments, a budget of %d bytes: short by %d bytes, want %d", segments, budget, got, want)
			}
		}
		mustClose(t, r.s)
	}
}
