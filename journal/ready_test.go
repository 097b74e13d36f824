package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// writeSegments writes until so many more segments have become active.
func writeSegments(t *testing.T, s *Store, n int) {
	t.Helper()
	payload := make([]byte, 32<<10)
	for until := s.taken.Load() + uint64(n); s.taken.Load() < until; {
		if _, err := s.Write(payload, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// readyStore has files for reuse, and as many segments ready as there may be.
func readyStore(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, 1, func(cfg *Config) { cfg.JournalBytes = 2 * MinSegmentBytes })
	writeSegments(t, w.s, 12)
	for range 2 { // what the first one drops is ready behind the second
		if err := w.s.Maintain(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.s.ready.len(); n != readyAhead {
		t.Fatalf("%d segments are ready, want %d; %d files wait for reuse", n, readyAhead, len(w.s.free))
	}
	return w
}

// What is ready is taken without waiting for whoever makes files, or removes or seals what is
// no longer needed.
func TestAnAppendTakesWhatIsReady(t *testing.T) {
	w := readyStore(t)
	s := w.s
	var ids []segmentID
	for _, g := range s.ready.queue {
		ids = append(ids, g.id)
	}
	if !slices.IsSorted(ids) || s.active == nil || s.active.id >= ids[0] {
		t.Fatalf("segments %v are ready behind %v", ids, s.active)
	}
	s.sealMu.Lock()
	s.dropMu.Lock()
	s.spareMu.Lock()
	for i, id := range ids {
		if writeSegments(t, s, 1); s.active.id != id { // or it hangs
			t.Errorf("segment %d in turn has the id %d, want %d", i, s.active.id, id)
		}
	}
	s.spareMu.Unlock()
	s.dropMu.Unlock()
	s.sealMu.Unlock()
	writeSegments(t, s, 1)
	if last := ids[len(ids)-1]; s.active.id <= last {
		t.Errorf("segment %d follows segment %d", s.active.id, last)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Sealing has to wait for the disk, and removals take their time: the supply does not wait
// for either.
func TestSupplyDoesNotWaitForSealing(t *testing.T) {
	w := readyStore(t)
	writeSegments(t, w.s, 1)
	w.s.sealMu.Lock()
	w.s.dropMu.Lock()
	if err := w.s.prepareAhead(); err != nil { // or it hangs
		t.Error(err)
	}
	w.s.dropMu.Unlock()
	w.s.sealMu.Unlock()
	if n := w.s.ready.len(); n == 0 {
		t.Error("no segment is ready")
	}
	if err := w.s.Close(); err != nil {
		t.Error(err)
	}
}

// Segments that are ready and were never written to are no damage: after a crash, and after a
// clean end, nothing is missing, and their files do not gather.
func TestReadySegmentsAfterAnEnd(t *testing.T) {
	for _, end := range []string{"close", "kill", "power loss"} {
		t.Run(end, func(t *testing.T) {
			w := readyStore(t)
			writeSegments(t, w.s, 1)
			if err := w.s.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
			tip, files := w.s.Tip(), len(w.s.segments)+w.s.ready.len()+len(w.s.free)
			mem := w.mem
			switch end {
			case "close":
				if err := w.s.Close(); err != nil {
					t.Fatal(err)
				}
			case "kill":
				mem = w.mem.KillClone()
			case "power loss":
				mem = w.mem.Crash(w.rng)
			}
			cfg := w.cfg
			cfg.FS = mem
			s := mustOpen(t, cfg)
			if got := s.Tip(); got != tip {
				t.Errorf("the tip is %v, was %v", got, tip)
			}
			names, err := cfg.FS.ReadDir(cfg.file(journalDir))
			if err != nil || len(names) > files {
				t.Errorf("%d files after it, %d before: %q, %v", len(names), files, names, err)
			}
			writeSegments(t, s, readyAhead+1)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A disk that is full gets back all that is ready but for one segment.
func TestReserveOfReadySegments(t *testing.T) {
	w := readyStore(t)
	s := w.s
	first := s.ready.queue[0]
	before := journalSpace(t, w.mem)
	free := int64(s.reusable())
	if !s.giveUpReserve() {
		t.Fatal("nothing was given up")
	}
	if s.ready.len() != 1 || s.ready.queue[0] != first || len(s.free) > 0 {
		t.Errorf("%d segments are ready, %d files wait for reuse", s.ready.len(), len(s.free))
	}
	if gained := before - journalSpace(t, w.mem); gained < free*MinSegmentBytes {
		t.Errorf("gained %d bytes of %d files of %d", gained, free, MinSegmentBytes)
	}
	writeSegments(t, s, 2)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// An id is not used twice, whatever was ready and given back.
func TestReadySegmentsThatAreTooSmall(t *testing.T) {
	w := readyStore(t)
	s := w.s
	last := s.ready.queue[readyAhead-1].id
	p := make([]byte, 2*MinSegmentBytes)
	tip := s.Tip()
	r := Record{Kind: KindWrite, Position: Position{tip.Timeline, tip.Seq + 1}, Payload: p, Length: int64(len(p))}
	s.appendMu.Lock()
	err := s.room(&r)
	s.appendMu.Unlock()
	if err != nil || s.active.id <= last || s.active.bytes <= MinSegmentBytes {
		t.Errorf("the segment for a large record is %d with %d bytes, %v; %d was ready", s.active.id, s.active.bytes, err, last)
	}
	if n := s.ready.len(); n != 0 {
		t.Errorf("%d segments of lower ids are ready", n)
	}
	s.active.last = s.active.first - 1 // nothing was written to it
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Files are kept for reuse as long as they are taken fast, and no longer.
func TestFilesKeptForReuse(t *testing.T) {
	w := newWorld(t, 1, nil)
	s := w.s
	keep := func() int {
		s.spareMu.Lock()
		defer s.spareMu.Unlock()
		return s.toKeep()
	}
	for i, step := range []struct {
		taken  int
		passed time.Duration
		want   int
	}{
		{0, 0, keepFree},
		{keepFree + 2, time.Second, keepFree + 2},
		{100, time.Second, keepBusy},
		{100, 2 * keepFor, keepBusy}, // a busy period ends
		{0, time.Second, keepBusy},
		{1, keepFor, keepFree},     // the next one was quiet
		{100, time.Hour, keepFree}, // slowly
	} {
		s.taken.Add(uint64(step.taken))
		w.clock.Advance(step.passed)
		if got := keep(); got != step.want {
			t.Errorf("step %d, %+v: %d files are kept", i, step, got)
		}
	}
	for i := range keepBusy {
		name := fmt.Sprintf("%s/reused-%d", journalDir, i)
		if _, err := w.mem.Create(w.cfg.file(name)); err != nil {
			t.Fatal(err)
		}
		s.free = append(s.free, name)
	}
	s.trimReuse()
	if len(s.free) != keepFree {
		t.Errorf("%d files are kept by a quiet store, want %d", len(s.free), keepFree)
	}
	if _, err := w.mem.Stat(w.cfg.file(journalDir + "/reused-0")); err == nil {
		t.Error("a file that is not kept is there yet")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// What a store has kept is its successor's once it is closed.
func TestAClosedStoreRemovesNoFiles(t *testing.T) {
	w := newWorld(t, 1, nil)
	s := w.s
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	name := journalDir + "/of-the-next-one"
	if _, err := w.mem.Create(w.cfg.file(name)); err != nil {
		t.Fatal(err)
	}
	for range keepBusy {
		s.free = append(s.free, name)
	}
	s.trimReuse()
	if _, err := w.mem.Stat(w.cfg.file(name)); err != nil {
		t.Errorf("a file of the next store is gone: %v", err)
	}
	s.catalogFull.Store(true) // a write that waited for room when the store was closed
	if _, err := s.Reclaim(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("room in a store that is closed: %v", err)
	}
	if _, err := w.mem.Stat(w.cfg.file(name)); err != nil {
		t.Errorf("a file of the next store is gone for room in this one: %v", err)
	}
}

// A store that is opened again by who has closed it keeps what a busy one needs, and gives it back
// only once something is ready.
func TestFilesForReuseAfterAClose(t *testing.T) {
	w := readyStore(t)
	for range keepBusy + 2 {
		writeSegments(t, w.s, 1)
		if err := w.s.prepareAhead(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	kept := w.s.reusable()
	if kept <= keepFree {
		t.Fatalf("a busy store has %d files for reuse", kept)
	}
	if err := w.s.Close(); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, w.cfg)
	if got := len(s.free); got < kept {
		t.Errorf("%d files for reuse are left of %d", got, kept)
	}
	if err := s.prepareAhead(); err != nil {
		t.Fatal(err)
	}
	if s.ready.len() != readyAhead || s.reusable() != keepFree {
		t.Errorf("%d segments are ready, %d files kept", s.ready.len(), s.reusable())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A store lets go of the live index when it is closed, and with it of segments that were dropped
// before: destage could not make the index anew, because a footer is damaged.
func TestCloseLetsGoOfDroppedSegments(t *testing.T) {
	w := newWorld(t, 1, func(cfg *Config) { cfg.JournalBytes, cfg.youngExtents = 8*MinSegmentBytes, 1 })
	s := w.s
	for range 4 {
		writeSegments(t, s, 4)
		if err := s.sealDue(); err != nil {
			t.Fatal(err)
		}
	}
	stack := s.index.stack
	if stack == nil {
		t.Fatal("all of the live index is in memory")
	}
	newest := stack.parts[len(stack.parts)-1].segment
	if err := w.mem.Corrupt(w.cfg.file(newest.name), newest.bytes-blockBytes, blockBytes); err != nil {
		t.Fatal(err)
	}
	if err := s.Maintain(context.Background()); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("maintaining a store with a damaged footer: %v", err)
	}
	if n := stack.parts[0].users.Load(); s.index.stack != stack || n != 1 {
		t.Fatalf("%d users of the oldest segment, want the live index alone", n)
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the store is not closed")
	}
}

// What the live index has put aside goes from memory once its segments are sealed, whoever has
// sealed them: an append does, where too many wait, and who makes room.
func TestWhatOthersSealedLeavesTheLiveIndex(t *testing.T) {
	w := newWorld(t, 1, func(cfg *Config) { cfg.youngExtents = 1 })
	s := w.s
	defer mustClose(t, s)
	writeSegments(t, s, 4)
	if err := s.sealPending(); err != nil {
		t.Fatal(err)
	}
	if s.index.old == nil {
		t.Fatal("the live index has put nothing aside")
	}
	if err := s.sealDue(); err != nil {
		t.Fatal(err)
	}
	if s.index.old != nil {
		t.Error("what the live index has put aside is in memory, although it is sealed")
	}
}

// Where the file system does not write in place, files for reuse only take room: an append that
// found none gets theirs, also in a journal of its own.
func TestFilesForReuseGiveWayWhereNothingIsWrittenInPlace(t *testing.T) {
	for name, dir := range map[string]string{"beside the base": "", "of its own": worldJournalDir} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, func(cfg *Config) { cfg.JournalBytes, cfg.JournalDir = 2*MinSegmentBytes, dir })
			s := w.s
			writeSegments(t, s, 12)
			if err := s.Maintain(context.Background()); err != nil {
				t.Fatal(err)
			}
			if len(s.free) == 0 {
				t.Fatal("there are no files for reuse")
			}
			s.noteCopies()
			if _, err := s.Reclaim(context.Background()); err != nil {
				t.Fatal(err)
			}
			names, err := w.cfg.FS.ReadDir(w.cfg.file(journalDir))
			if err != nil {
				t.Fatal(err)
			}
			files := 0
			for _, name := range names {
				if _, ok := parseSegmentName(name); ok {
					files++
				}
			}
			if want := len(s.segments) + s.ready.len(); files != want || s.ready.len() > 1 {
				t.Errorf("%d files, want %d with %d ready", files, want, s.ready.len())
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
