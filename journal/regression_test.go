package journal

import (
	"context"
	"errors"
	"math"
	"path"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestVeryLongDiscards: an extent of the index cannot hold more than 8 GiB;
// the footer of a segment full of long discards must fit all the same.
func TestVeryLongDiscards(t *testing.T) {
	cfg := testConfig(t)
	cfg.FS, cfg.Dir = vfs.NewMem(), "v"
	if err := Create(cfg, Spec{testVolume, maxVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, cfg)
	const length = 20 << 40
	if _, err := s.Discard(0, length); err != nil {
		t.Fatal(err)
	}
	last := int64(maxVolumeBytes - SectorBytes)
	if _, err := s.Write(bytesOf(7), last); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s = mustOpen(t, cfg)
	got := make([]byte, SectorBytes)
	if err := s.ReadAt(got, last); err != nil || got[0] != 7 {
		t.Fatalf("last sector of the largest volume: %d, %v", got[0], err)
	}
	var covered uint64
	if err := s.index.lookup(0, length/SectorBytes, func(e extent) bool { covered += e.sectors(); return e.loc.isZeroes() }); err != nil {
		t.Fatal(err)
	}
	if covered != length/SectorBytes {
		t.Fatalf("%d sectors are discarded, want %d", covered, uint64(length/SectorBytes))
	}
	mustClose(t, s)
}

func bytesOf(b byte) []byte {
	p := make([]byte, SectorBytes)
	for i := range p {
		p[i] = b
	}
	return p
}

// TestSegmentWithoutRecordIsNotSealed: a record that is refused after its
// segment was begun leaves an empty one. In the catalog it would keep the
// store from opening once the base has passed it.
func TestSegmentWithoutRecordIsNotSealed(t *testing.T) {
	w := newWorld(t, 1, nil)
	w.fault.FailAt(w.fault.Count(vfs.OpTruncate)+1, vfs.ErrNoSpace, vfs.OpTruncate)
	if _, err := w.s.Resize(2 * worldVolumeBytes); !errors.Is(err, ErrFull) {
		t.Fatalf("resize without space: %v", err)
	}
	if err := errors.Join(w.fork(), w.write(), w.flush(), w.maintain()); err != nil {
		t.Fatal(err)
	}
	if n := len(w.s.segments); n != 1 {
		t.Fatalf("%d segments, want the one that has a record", n)
	}
	if err := w.reopen(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, w.s)
}

// TestAdoptedTimelineIsNotContinued: a crash may have taken records of a
// timeline, and other sites may have them or others in their place.
func TestAdoptedTimelineIsNotContinued(t *testing.T) {
	w := newWorld(t, 1, nil)
	if err := errors.Join(w.write(), w.flush(), w.write()); err != nil {
		t.Fatal(err)
	}
	first := w.s.Timelines()[0]
	w.mount(w.mem.CrashWith(nil, vfs.CrashOptions{LoseAll: true}))
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	at := w.s.Tip()
	if _, err := w.s.Fork(at, "elsewhere"); err != nil {
		t.Fatal(err)
	}
	if err := w.s.Adopt(first); err != nil {
		t.Fatal(err)
	}
	pos, err := w.s.Write(bytesOf(1), 0)
	if err != nil {
		t.Fatal(err)
	}
	if pos.Timeline == first.ID {
		t.Fatalf("%s was used again after a crash took the first record of it", pos)
	}
	mustClose(t, w.s)
}

// TestFailedCommitOfForkPoisons: the fork may be on disk; a write on the old
// timeline would then be acknowledged and not be there after the next Open.
func TestFailedCommitOfForkPoisons(t *testing.T) {
	w := newWorld(t, 1, nil)
	if err := errors.Join(w.write(), w.flush()); err != nil {
		t.Fatal(err)
	}
	w.fault.FailAt(w.fault.Count(vfs.OpCommit)+1, errDisk, vfs.OpCommit)
	if _, err := w.s.Fork(w.s.Tip(), "rewind"); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("fork with a failing catalog: %v", err)
	}
	if _, err := w.s.Write(bytesOf(1), 0); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("write behind an unknown fork: %v", err)
	}
	mustClose(t, w.s)
}

// TestPinsOfOneNameAtOnce: only one position gets the name.
func TestPinsOfOneNameAtOnce(t *testing.T) {
	w := newWorld(t, 1, nil)
	for range 8 {
		if err := w.write(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		var group sync.WaitGroup
		results := make([]error, 8)
		for i := range results {
			group.Go(func() { results[i] = w.s.Pin("p", w.m.past[i+1]) })
		}
		group.Wait()
		pinned := 0
		for i, err := range results {
			switch {
			case err == nil:
				pinned++
				if at := w.s.Pins()["p"]; at != w.m.past[i+1] {
					t.Fatalf("pin acknowledged at %s is at %s", w.m.past[i+1], at)
				}
			case !errors.Is(err, ErrPinExists):
				t.Fatal(err)
			}
		}
		if pinned != 1 {
			t.Fatalf("%d calls got the name", pinned)
		}
		if err := w.s.Unpin("p"); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, w.s)
}

// TestCheckpointsThatCannotBeStored are refused before they reach the disk,
// where their record would look like damage.
func TestCheckpointsThatCannotBeStored(t *testing.T) {
	w := newWorld(t, 1, nil)
	info := CheckpointInfo{Group: "shop"}
	for name, c := range map[string]Checkpoint{
		"number zero":      {Time: worldStart, CheckpointInfo: info},
		"number too large": {Number: math.MaxInt64 + 1, Time: worldStart, CheckpointInfo: info},
		"no time":          {Number: 1, CheckpointInfo: info},
		"time too late":    {Number: 1, Time: time.Date(2400, 1, 1, 0, 0, 0, 0, time.UTC), CheckpointInfo: info},
	} {
		if _, err := w.s.Checkpoint(c); !errors.Is(err, ErrRange) {
			t.Errorf("%s: %v", name, err)
		}
	}
	mustClose(t, w.s)
}

// TestRecoveredRecordsStayForTheWindow: when a recovered segment's last record
// came is not known; its beginning says nothing.
func TestRecoveredRecordsStayForTheWindow(t *testing.T) {
	w := newWorld(t, 1, func(cfg *Config) { cfg.Window = time.Hour })
	if err := errors.Join(w.write(), w.flush()); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(5 * time.Hour)
	if err := errors.Join(w.write(), w.flush()); err != nil {
		t.Fatal(err)
	}
	before := Position{w.m.tip.Timeline, w.m.tip.Seq - 1}
	w.mount(w.mem.KillClone())
	if err := errors.Join(w.open(), w.maintain()); err != nil {
		t.Fatal(err)
	}
	v, err := w.s.View(before)
	if err != nil {
		t.Fatalf("a minute of history is gone with a window of an hour: %v", err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(2 * time.Hour)
	if err := w.maintain(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.s.View(before); !errors.Is(err, ErrHorizon) {
		t.Fatalf("view two hours later: %v", err)
	}
	mustClose(t, w.s)
}

// TestImportClearsLeftovers: segments of a store whose removal did not finish
// must not become those of its successor.
func TestImportClearsLeftovers(t *testing.T) {
	w := newWorld(t, 1, nil)
	lines, start := w.s.Timelines(), w.s.Tip()
	if err := errors.Join(w.write(), w.flush()); err != nil {
		t.Fatal(err)
	}
	mem := w.mem.KillClone()
	if err := mem.Remove(path.Join(worldDir, volumeFile)); err != nil {
		t.Fatal(err)
	}
	cfg := w.cfg
	cfg.FS = mem
	im, err := NewImport(cfg, Spec{testVolume, worldVolumeBytes}, start, lines)
	if err != nil {
		t.Fatal(err)
	}
	if err := im.Commit(); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, cfg)
	if s.Tip() != start {
		t.Fatalf("a new store is at %s: it took up segments of an old one", s.Tip())
	}
	mustClose(t, s)
}

// TestReplicaGrowsWithItsSource: a source that grew, and then forked at a
// position before that, writes where a replica has no volume yet. Programs of
// store version 1 appended no resize before that write.
func TestReplicaGrowsWithItsSource(t *testing.T) {
	w := newReplicaWorld(t, 1, shortJournal)
	at := w.src.s.Tip()
	if _, err := w.src.s.Resize(2 * worldVolumeBytes); err != nil {
		t.Fatal(err)
	}
	line, err := w.src.s.Fork(at, "rewind")
	if err != nil {
		t.Fatal(err)
	}
	p := bytesOf(3)
	pos := Position{line.ID, at.Seq + 1}
	if err := w.s.Adopt(line); err != nil {
		t.Fatal(err)
	}
	r := Record{Kind: KindWrite, Position: pos, Offset: 2*worldVolumeBytes - SectorBytes, Length: SectorBytes, Payload: p, PayloadCRC: PayloadChecksum(p)}
	if err := w.s.AppendRecords([]Record{r}); err != nil {
		t.Fatal(err)
	}
	if w.s.SizeBytes() != 2*worldVolumeBytes {
		t.Fatalf("replica has %d bytes", w.s.SizeBytes())
	}
	for range 2 {
		checkSizes(t, w.s, []Position{at, pos}, []int64{worldVolumeBytes, 2 * worldVolumeBytes})
		if err := w.s.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.mount(w.mem.KillClone()) // recovered from its records alone
		if err := w.open(); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, w.s)
	mustClose(t, w.src.s)
}

// TestReaderGivesWay: a reader that does not advance holds the journal up to
// twice its budget, and no longer.
func TestReaderGivesWay(t *testing.T) {
	w := newWorld(t, 1, shortJournal)
	r, err := w.s.Records(w.s.Horizon())
	if err != nil {
		t.Fatal(err)
	}
	start, most := w.s.Horizon(), int64(0)
	for range 400 {
		if err := errors.Join(w.write(), w.flush()); err != nil {
			t.Fatal(err)
		}
		if w.s.Horizon() == start {
			most = max(most, w.s.Stats().JournalBytes)
		}
		if err := w.maintain(); err != nil {
			t.Fatal(err)
		}
	}
	if low, high := 2*w.cfg.JournalBytes, 2*w.cfg.JournalBytes+2*MinSegmentBytes; most < low || most > high {
		t.Fatalf("the reader gave way at %d bytes, want %d to %d", most, low, high)
	}
	if _, err := r.Next(context.Background()); !errors.Is(err, ErrHorizon) {
		t.Fatalf("read behind the horizon: %v", err)
	}
	r.Close()
	if n := w.s.Stats().JournalBytes; n > w.cfg.JournalBytes+2*MinSegmentBytes {
		t.Fatalf("journal has %d bytes", n)
	}
	mustClose(t, w.s)
}

// TestReaderOfDroppedTimeline: the horizon that a reader gave way to may take the
// timeline away on which it stands. Next then told of an unknown position, if there
// had been a fork, and whoever reads is not prepared for that.
func TestReaderOfDroppedTimeline(t *testing.T) {
	for name, back := range map[string]Seq{"fork at the reader's position": 0, "fork before it": 1} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, shortJournal)
			if err := errors.Join(w.write(), w.flush()); err != nil {
				t.Fatal(err)
			}
			at := w.s.Tip()
			r, err := w.s.Records(at)
			if err != nil {
				t.Fatal(err)
			}
			parent := Position{at.Timeline, at.Seq - back}
			if _, err := w.s.Fork(parent, "rewind"); err != nil {
				t.Fatal(err)
			}
			tip := w.s.Tip()
			w.m.tip, w.m.images[tip] = tip, w.m.images[parent]
			for range 400 {
				if err := errors.Join(w.write(), w.flush(), w.maintain()); err != nil {
					t.Fatal(err)
				}
			}
			if lines := w.s.Timelines(); len(lines) != 1 || w.s.Horizon().Timeline != tip.Timeline {
				t.Fatalf("horizon %s, timelines %v: want the new one alone", w.s.Horizon(), lines)
			}
			if _, err := r.Next(context.Background()); !errors.Is(err, ErrHorizon) {
				t.Errorf("read behind the horizon: %v", err)
			}
			r.Close()
			checkNothingHeld(t, w.s)
			mustClose(t, w.s)
		})
	}
}
