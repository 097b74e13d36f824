package integration

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"

	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

const (
	innerBytes = 128 << 10
	// innerJournal makes destage come early.
	innerJournal = 4 * journal.MinSegmentBytes
	innerDir     = "store"
)

var innerVolume = journal.VolumeID{0x1a, 0x2b}

// innerStore is a store on a file system under test, and what it must hold
// after every call: the oracle of its crash images. It is for one goroutine.
type innerStore struct {
	rng  *rand.Rand
	s    *journal.Store
	mark *marker

	// states are what the volume held, in the order of the calls; index finds
	// them by position.
	states []innerState
	index  map[journal.Position]int
	pins   map[string]journal.Position
	// promises are what was durable when the marker was set to 0, 1, 2, …
	promises []promise
	calls    int
}

type innerState struct {
	at    journal.Position
	image []byte
}

// promise is what the store had acknowledged as durable at a moment.
type promise struct {
	state int // index of the newest durable state
	pins  map[string]journal.Position
}

func innerConfig(dir string) journal.Config {
	return journal.Config{FS: vfs.OS{}, Dir: filepath.Join(dir, innerDir), SegmentBytes: journal.MinSegmentBytes, JournalBytes: innerJournal}
}

// newInnerStore makes a store in a directory and sets the marker to 0.
func newInnerStore(dir string, mark *marker, seed uint64) (*innerStore, error) {
	if err := journal.Create(innerConfig(dir), journal.Spec{Volume: innerVolume, SizeBytes: innerBytes}); err != nil {
		return nil, err
	}
	// Create makes the store durable, and leaves its own name to the caller.
	if err := (vfs.OS{}).SyncDir(dir); err != nil {
		return nil, err
	}
	s, err := journal.Open(innerConfig(dir))
	if err != nil {
		return nil, err
	}
	in := &innerStore{rng: rand.New(rand.NewPCG(seed, 1)), s: s, mark: mark, index: map[journal.Position]int{}, pins: map[string]journal.Position{}}
	in.reached(s.Tip(), make([]byte, innerBytes))
	return in, in.promised()
}

// reached notes the volume's content after a call.
func (in *innerStore) reached(at journal.Position, image []byte) {
	in.index[at] = len(in.states)
	in.states = append(in.states, innerState{at, image})
}

func (in *innerStore) live() []byte { return in.states[len(in.states)-1].image }

// promised notes that all so far is durable, on the disk as well.
func (in *innerStore) promised() error {
	in.promises = append(in.promises, promise{len(in.states) - 1, maps.Clone(in.pins)})
	return in.mark.set(len(in.promises) - 1)
}

// run makes n random calls.
func (in *innerStore) run(ctx context.Context, n int) error {
	calls := []struct {
		weight int
		call   func(context.Context) error
	}{
		{24, in.write}, {6, in.clear}, {2, in.checkpoint}, {5, in.flush}, {4, in.maintain}, {1, in.fork}, {2, in.pin}, {2, in.unpin},
	}
	total := 0
	for _, c := range calls {
		total += c.weight
	}
	for range n {
		in.calls++
		pick, i := in.rng.IntN(total), 0
		for ; pick >= calls[i].weight; i++ {
			pick -= calls[i].weight
		}
		if err := calls[i].call(ctx); err != nil {
			return fmt.Errorf("call %d on the inner store: %w", in.calls, err)
		}
	}
	return nil
}

// close closes the store, which makes all of it durable.
func (in *innerStore) close() error {
	if err := in.s.Close(); err != nil {
		return err
	}
	return in.promised()
}

// extent chooses whole sectors of the volume.
func (in *innerStore) extent() (off, length int64) {
	sectors := int64(1 + in.rng.IntN(40))
	return in.rng.Int64N(innerBytes/journal.SectorBytes-sectors+1) * journal.SectorBytes, sectors * journal.SectorBytes
}

func (in *innerStore) write(context.Context) error {
	off, length := in.extent()
	p := make([]byte, length)
	for i := range p {
		p[i] = byte(in.rng.Uint32())
	}
	at, err := in.s.Write(p, off)
	in.changed(at, err, p, off)
	return err
}

func (in *innerStore) clear(context.Context) error {
	off, length := in.extent()
	call := in.s.Discard
	if in.rng.IntN(2) == 0 {
		call = in.s.Zero
	}
	at, err := call(off, length)
	in.changed(at, err, make([]byte, length), off)
	return err
}

// changed notes a change that was acknowledged.
func (in *innerStore) changed(at journal.Position, err error, p []byte, off int64) {
	if err == nil {
		image := bytes.Clone(in.live())
		copy(image[off:], p)
		in.reached(at, image)
	}
}

func (in *innerStore) checkpoint(context.Context) error {
	at, err := in.s.Checkpoint(journal.Checkpoint{
		Number:         journal.CheckpointNumber(in.calls),
		CheckpointInfo: journal.CheckpointInfo{Group: "inner", Members: []journal.VolumeID{innerVolume}},
		Time:           innerTime,
	})
	in.changed(at, err, nil, 0)
	return err
}

func (in *innerStore) flush(ctx context.Context) error {
	if err := in.s.Flush(ctx); err != nil {
		return err
	}
	return in.promised()
}

func (in *innerStore) maintain(ctx context.Context) error { return in.s.Maintain(ctx) }

// fork goes on from a position of the past, which is durable when it returns.
func (in *innerStore) fork(context.Context) error {
	at := in.pick(func(journal.Position) bool { return true })
	line, err := in.s.Fork(at, "rewind")
	if err != nil {
		return err
	}
	in.reached(journal.Position{Timeline: line.ID, Seq: at.Seq}, in.states[in.index[at]].image)
	return in.promised()
}

func (in *innerStore) pin(context.Context) error {
	durable := in.promises[len(in.promises)-1].state
	at := in.pick(func(at journal.Position) bool { return in.index[at] <= durable })
	name := fmt.Sprintf("pin-%d", in.calls)
	if err := in.s.Pin(name, at); err != nil {
		return err
	}
	in.pins[name] = at
	return in.repromised()
}

func (in *innerStore) unpin(context.Context) error {
	if len(in.pins) == 0 {
		return nil
	}
	name := slices.Min(slices.Collect(maps.Keys(in.pins)))
	if err := in.s.Unpin(name); err != nil {
		return err
	}
	delete(in.pins, name)
	return in.repromised()
}

// repromised notes that other pins are durable, and no more states than before.
func (in *innerStore) repromised() error {
	in.promises = append(in.promises, promise{in.promises[len(in.promises)-1].state, maps.Clone(in.pins)})
	return in.mark.set(len(in.promises) - 1)
}

// pick chooses a position of the active path that can be opened, or the horizon.
func (in *innerStore) pick(fits func(journal.Position) bool) journal.Position {
	var all []journal.Position
	for _, at := range in.opens(in.s) {
		if fits(at) {
			all = append(all, at)
		}
	}
	if len(all) == 0 {
		return in.s.Horizon()
	}
	return all[in.rng.IntN(len(all))]
}

// opens lists the known positions on a store's active path, oldest first.
func (in *innerStore) opens(s *journal.Store) []journal.Position {
	var all []journal.Position
	horizon := s.Horizon()
	if _, known := in.index[horizon]; known {
		all = append(all, horizon)
	}
	for _, run := range s.Path() {
		for seq := run.First; seq <= run.Last; seq++ {
			at := journal.Position{Timeline: run.Timeline, Seq: seq}
			if _, known := in.index[at]; known && at != horizon {
				all = append(all, at)
			}
		}
	}
	return all
}
