package journal

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// noRoomLoads are mixes of calls of which some operations find no room.
var noRoomLoads = []struct {
	name   string
	change func(*Config)
	steps  []step
}{
	{"everything", quickScrub, faultSteps},
	{"index on disk", shortJournalSmallIndex, []step{
		{10, (*world).fillSegment}, {6, (*world).write}, {2, (*world).discard}, {4, (*world).batch}, {4, (*world).maintain}, {1, (*world).flush}, {1, (*world).fork}, {1, (*world).hold},
	}},
	{"thin", thinningSmallIndex, []step{
		{12, (*world).fillSegment}, {8, (*world).checkpoint}, {2, (*world).discard}, {6, (*world).maintain}, {1, (*world).fork}, {1, (*world).pin}, {1, (*world).unpinAny},
	}},
	{"own journal", ownJournal(shortJournalSmallIndex), []step{
		{10, (*world).fillSegment}, {2, (*world).discard}, {1, (*world).resize}, {4, (*world).maintain}, {1, (*world).flush}, {1, (*world).fork}, {1, (*world).pin}, {1, (*world).unpinAny},
	}},
}

func shortJournalSmallIndex(cfg *Config) {
	shortJournal(cfg)
	smallIndex(cfg)
}

// TestNoRoomForSomeOperations: from the k-th operation of a kind on, for every third k, those of that
// kind find no room for a few calls. At each moment the volume reads as what was
// acknowledged, nothing of the past is lost, and all goes on when there is room again.
func TestNoRoomForSomeOperations(t *testing.T) {
	for _, load := range noRoomLoads {
		t.Run(load.name, func(t *testing.T) {
			for _, op := range []vfs.Op{vfs.OpCommit, vfs.OpAllocate, vfs.OpWrite, vfs.OpWriteVec, vfs.OpCreate, vfs.OpTruncate, vfs.OpPunchHole} {
				for _, seed := range rounds(t) {
					for k := int64(1 + (seed+2)%3); ; k += 3 {
						w := newWorld(t, seed, load.change)
						done, err := w.failFrom(load.steps, k, op, vfs.ErrNoSpace)
						if err != nil || t.Failed() {
							t.Fatalf("seed %d, no room from %s %d on: %v; the last operations were:\n%s", seed, op, k, err, w.fault.Trace())
						}
						if done {
							break
						}
					}
				}
			}
		})
	}
}

// TestSomeOperationsFail is the same of operations that fail as a disk does: the store goes
// on as well, or says that it cannot and loses nothing that was flushed.
func TestSomeOperationsFail(t *testing.T) {
	for _, load := range noRoomLoads {
		t.Run(load.name, func(t *testing.T) {
			for _, op := range []vfs.Op{vfs.OpAllocate, vfs.OpWrite, vfs.OpCreate, vfs.OpTruncate, vfs.OpPunchHole, vfs.OpRename, vfs.OpRemove} {
				for _, seed := range rounds(t) {
					for k := int64(1 + (seed+2)%3); ; k += 3 {
						w := newWorld(t, seed, load.change)
						done, err := w.failFrom(load.steps, k, op, errDisk)
						if err != nil || t.Failed() {
							t.Fatalf("seed %d, failing from %s %d on: %v; the last operations were:\n%s", seed, op, k, err, w.fault.Trace())
						}
						if done {
							break
						}
					}
				}
			}
		})
	}
}

// failFrom reports that there were fewer than k operations of the kind.
func (w *world) failFrom(steps []step, k int64, op vfs.Op, failure error) (done bool, err error) {
	const calls, failing = 50, 4
	w.fault.FailFrom(k, failure, op)
	left := -1 // calls that may fail
	for range calls {
		if left < 0 && w.fault.Count(op) >= k {
			left = failing
		}
		if left--; left == 0 {
			w.fault.Mend()
			w.clock.Advance(maxVainWait)
		}
		if err := w.tryStep(steps, failure); err != nil {
			return false, err
		}
		if err := w.checkLive(); err != nil {
			return false, err
		}
	}
	done = w.fault.Count(op) < k
	w.fault.Mend()
	w.clock.Advance(maxVainWait)
	if err := errors.Join(w.run(steps, 5), w.flush(), w.closeViews()); err != nil {
		return done, fmt.Errorf("when nothing failed any more: %w", err)
	}
	w.m.check(w.t, w.s, false)
	w.mount(w.mem.CrashWith(nil, vfs.CrashOptions{LoseAll: true}))
	w.checkUndamaged()
	if err := w.open(); err != nil {
		return done, err
	}
	w.m.check(w.t, w.s, true)
	return done, w.s.Close()
}

// tryStep makes a call that may fail.
func (w *world) tryStep(steps []step, failure error) error {
	err := w.run(steps, 1)
	if !errors.Is(err, ErrFull) && !errors.Is(err, failure) {
		return err
	}
	w.clock.Advance(time.Second)
	if w.s != nil && w.s.Err() != nil {
		w.views = nil
		_ = w.s.Close()
	}
	if w.s == nil || w.s.closed {
		return w.startAgain()
	}
	w.m.attempt, w.m.size = nil, w.s.SizeBytes()
	return nil
}

// startAgain opens a store that was closed, or could not be, as a new process.
func (w *world) startAgain() error {
	w.fault.Mend()
	w.mount(w.mem.KillClone())
	if err := w.open(); err != nil {
		return err
	}
	w.m.check(w.t, w.s, true)
	w.m.resume(w.s)
	return nil
}

// checkLive compares what the volume reads as with the model, in the middle of its life.
func (w *world) checkLive() error {
	got := make([]byte, w.s.SizeBytes())
	if err := w.s.ReadAt(got, 0); err != nil {
		return err
	}
	if want := w.m.live(); !bytes.Equal(got, want) {
		return fmt.Errorf("live content at %s differs from the model in sector %d", w.s.Tip(), firstDifference(got, want))
	}
	return nil
}

// batch writes several times in one call.
func (w *world) batch() error {
	var writes []BatchWrite
	images := [][]byte{w.m.live()}
	for range 1 + w.rng.IntN(4) {
		off, length := randomExtent(w.rng, w.m.size, 24)
		p := randomBytes(w.rng, length)
		writes = append(writes, BatchWrite{off, p})
		next := bytes.Clone(images[len(images)-1])
		copy(next[off:], p)
		images = append(images, next)
	}
	w.m.attempt = &attempt{images: images[1:], size: w.m.size}
	if int64(len(w.m.image())) < w.m.size {
		w.m.attempt.images = images
	}
	before := w.s.Tip()
	err := w.s.WriteBatch(writes)
	w.m.learn(w.s)
	tip := w.s.Tip()
	appended := int(tip.Seq - before.Seq)
	for i, image := range w.m.attempt.images[:appended] {
		w.m.enter(Position{tip.Timeline, before.Seq + 1 + Seq(i)}, image)
	}
	if err == nil && appended != len(w.m.attempt.images) {
		err = fmt.Errorf("a batch of %d writes led from %s to %s", len(writes), before, tip)
	}
	w.m.attempt.images = w.m.attempt.images[appended:]
	return err
}
