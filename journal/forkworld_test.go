package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
)

// forkWorld is a store in production with writable forks of its past.
type forkWorld struct {
	*world
	forks []*testFork
	made  int
	// reclaimed are bytes that forks gave back.
	reclaimed int64
	committed int // records that production got from forks
}

// testFork is one fork, and what it held after each of its records.
type testFork struct {
	pin      string
	at       Position
	id       VolumeID
	dir      string
	origin   *View
	s        *Store
	states   [][]byte
	flushed  int    // index of the state that is durable for certain
	attempt  []byte // state behind a call whose result is unknown
	complete bool   // Create has returned
	leaving  bool   // discard has begun
}

func (f *testFork) live() []byte { return f.states[len(f.states)-1] }

func newForkWorld(t *testing.T, seed uint64, change func(*Config)) *forkWorld {
	return &forkWorld{world: newWorld(t, seed, change)}
}

// production is what goes on beside the forks; its own pins and its reopening are
// made by others.
var production = []step{
	{16, (*world).write}, {4, (*world).discard}, {1, (*world).resize}, {2, (*world).checkpoint}, {2, (*world).flush},
	{3, (*world).maintain}, {1, (*world).fork}, {1, (*world).hold}, {1, (*world).scrub},
}

type forkStep struct {
	weight int
	do     func(w *forkWorld) error
}

var forkSteps = []forkStep{
	{1, (*forkWorld).overwriteFork}, {12, (*forkWorld).produce}, {2, (*forkWorld).create}, {8, (*forkWorld).writeFork}, {2, (*forkWorld).discardInFork}, {2, (*forkWorld).flushFork},
	{1, (*forkWorld).maintainFork}, {2, (*forkWorld).reclaimInFork}, {1, (*forkWorld).reopenFork}, {1, (*forkWorld).leaveFork}, {2, (*forkWorld).checkForks}, {1, (*forkWorld).restart},
	{1, (*forkWorld).commitFork},
}

// reclaimSteps overwrite one or two forks many times.
var reclaimSteps = []forkStep{
	{2, (*forkWorld).produce}, {1, (*forkWorld).create}, {12, (*forkWorld).overwriteFork}, {4, (*forkWorld).writeFork}, {2, (*forkWorld).discardInFork},
	{1, (*forkWorld).flushFork}, {4, (*forkWorld).reclaimInFork}, {1, (*forkWorld).reopenFork}, {1, (*forkWorld).checkForks},
}

// commitSteps make forks production.
var commitSteps = []forkStep{
	{6, (*forkWorld).produce}, {3, (*forkWorld).create}, {6, (*forkWorld).writeFork}, {3, (*forkWorld).discardInFork}, {1, (*forkWorld).flushFork},
	{1, (*forkWorld).reopenFork}, {1, (*forkWorld).restart}, {2, (*forkWorld).commitFork},
}

func (w *forkWorld) runForks(steps []forkStep, n int) error {
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	for range n {
		pick := w.rng.IntN(total)
		i := slices.IndexFunc(steps, func(s forkStep) bool { pick -= s.weight; return pick < 0 })
		if err := steps[i].do(w); err != nil {
			return err
		}
		w.m.attempt = nil
	}
	return nil
}

func (w *forkWorld) produce() error { return w.run(production, 1) }

func (w *forkWorld) configOf(f *testFork) Config {
	cfg := w.cfg
	cfg.Dir, cfg.Origin, cfg.JournalBytes, cfg.JournalDir = f.dir, f.origin, 0, ""
	return cfg
}

// create makes a fork of a durable moment that can be opened.
func (w *forkWorld) create() error {
	all := slices.DeleteFunc(w.candidates(), func(pos Position) bool { return !w.m.durable[pos] })
	if len(all) == 0 || len(w.forks) == 4 {
		return nil
	}
	w.made++
	at := all[w.rng.IntN(len(all))]
	f := &testFork{pin: fmt.Sprintf("fork:%d", w.made), at: at, id: VolumeID{0xf0, byte(w.made)}, dir: fmt.Sprintf("stores/fork-%d", w.made),
		states: [][]byte{bytes.Clone(w.m.images[at])}}
	w.m.attempt = &attempt{pin: f.pin}
	if err := w.s.Pin(f.pin, at); err != nil {
		return err
	}
	w.m.pins[f.pin], w.m.attempt = at, nil
	w.forks = append(w.forks, f)
	var err error
	if f.origin, err = w.s.View(at); err != nil {
		return err
	}
	if err := Create(w.configOf(f), Spec{f.id, f.origin.SizeBytes()}); err != nil {
		return err
	}
	f.complete = true
	return w.openFork(f)
}

func (w *forkWorld) openFork(f *testFork) (err error) {
	if f.origin == nil {
		if f.origin, err = w.s.View(f.at); err != nil {
			return err
		}
	}
	f.s, err = Open(w.configOf(f))
	return err
}

// closeFork closes the overlay and its origin, which is durable on return.
func (f *testFork) close() error {
	var err error
	if f.s != nil {
		err = f.s.Close()
	}
	if err == nil {
		f.flushed = len(f.states) - 1
	}
	if f.origin != nil {
		err = errors.Join(err, f.origin.Close())
	}
	f.s, f.origin = nil, nil
	return err
}

// some returns a fork, or nil if there is none.
func (w *forkWorld) some() *testFork {
	if len(w.forks) == 0 {
		return nil
	}
	return w.forks[w.rng.IntN(len(w.forks))]
}

// change makes a call that appends one record to a fork.
func (f *testFork) change(after []byte, call func() error) error {
	f.attempt = after
	if err := call(); err != nil {
		return err
	}
	f.states, f.attempt = append(f.states, after), nil
	return nil
}

func (w *forkWorld) writeFork() error {
	f := w.some()
	if f == nil {
		return nil
	}
	off, length := randomExtent(w.rng, int64(len(f.live())), 24)
	p := randomBytes(w.rng, length)
	after := bytes.Clone(f.live())
	copy(after[off:], p)
	return f.change(after, func() error { _, err := f.s.Write(p, off); return err })
}

// overwriteFork writes nearly all of a fork.
func (w *forkWorld) overwriteFork() error {
	f := w.some()
	if f == nil || f.at != w.forks[0].at {
		return nil
	}
	off := SectorBytes * w.rng.Int64N(8)
	p := randomBytes(w.rng, int64(len(f.live()))-off)
	after := bytes.Clone(f.live())
	copy(after[off:], p)
	return f.change(after, func() error { _, err := f.s.Write(p, off); return err })
}

func (w *forkWorld) discardInFork() error {
	f := w.some()
	if f == nil {
		return nil
	}
	off, length := randomExtent(w.rng, int64(len(f.live())), 40)
	after := bytes.Clone(f.live())
	clear(after[off : off+length])
	return f.change(after, func() error { _, err := f.s.Discard(off, length); return err })
}

func (w *forkWorld) flushFork() error {
	f := w.some()
	if f == nil {
		return nil
	}
	err := f.s.Flush(context.Background())
	if err == nil {
		f.flushed = len(f.states) - 1
	}
	return err
}

func (w *forkWorld) maintainFork() error {
	if f := w.some(); f != nil {
		return f.s.Maintain(context.Background())
	}
	return nil
}

func (w *forkWorld) reclaimInFork() error {
	f := w.some()
	if f == nil {
		return nil
	}
	freed, err := f.s.Reclaim(context.Background())
	w.reclaimed += freed
	return err
}

func (w *forkWorld) reopenFork() error {
	f := w.some()
	if f == nil {
		return nil
	}
	if err := f.close(); err != nil {
		return err
	}
	return w.openFork(f)
}

// restart closes and opens everything, as a site does.
func (w *forkWorld) restart() error {
	for _, f := range w.forks {
		if err := f.close(); err != nil {
			return err
		}
	}
	if err := w.reopen(); err != nil {
		return err
	}
	for _, f := range w.forks {
		if err := w.openFork(f); err != nil {
			return err
		}
	}
	return nil
}

// leaveFork discards a fork.
func (w *forkWorld) leaveFork() error {
	if f := w.some(); f != nil {
		return w.leave(f)
	}
	return nil
}

func (w *forkWorld) leave(f *testFork) error {
	f.leaving = true
	if err := f.close(); err != nil {
		return err
	}
	if err := w.cfg.FS.RemoveAll(f.dir); err != nil {
		return err
	}
	w.m.attempt = &attempt{pin: f.pin}
	if err := w.s.Unpin(f.pin); err != nil {
		return err
	}
	delete(w.m.pins, f.pin)
	w.forks = slices.DeleteFunc(w.forks, func(x *testFork) bool { return x == f })
	return nil
}

// commitFork makes a fork production, as a site does, and discards it.
func (w *forkWorld) commitFork() error {
	f := w.some()
	if f == nil {
		return nil
	}
	d, err := f.s.Difference()
	if err != nil {
		return err
	}
	defer d.Close()
	if err := w.forkAt(f.at); err != nil {
		return err
	}
	ahead, err := w.foresee(d)
	if err != nil {
		return err
	}
	if err := w.s.Absorb(context.Background(), d, func(int64) {}); err != nil {
		return err
	}
	if n := len(ahead); n > 0 {
		w.m.tip, w.m.past = ahead[n-1], append(w.m.past, ahead...)
	}
	w.m.volatile = append(w.m.volatile, ahead...)
	w.m.acknowledge()
	w.committed += len(ahead)
	if tip := w.s.Tip(); tip != w.m.tip || !sameImage(w.m.image(), f.live()) {
		return fmt.Errorf("%s committed at %s: the tip is %s, want %s", f.pin, f.at, tip, w.m.tip)
	}
	return errors.Join(d.Close(), w.leave(f))
}

// foresee enters what production holds after each record that it is about to get,
// and returns their positions.
func (w *forkWorld) foresee(d *Difference) (ahead []Position, err error) {
	pos := w.m.tip
	enter := func(image []byte) {
		pos.Seq++
		w.m.images[pos] = image
		ahead = append(ahead, pos)
	}
	image := w.m.live()
	err = d.eachChunk(context.Background(), func(off, length int64, zeroes bool) error {
		if len(ahead) == 0 && int64(len(w.m.image())) < w.m.size {
			enter(bytes.Clone(image)) // the tip grows first
		}
		if part := image[off : off+length]; zeroes {
			clear(part)
		} else if err := d.view.ReadAt(part, off); err != nil {
			return err
		}
		enter(bytes.Clone(image))
		return nil
	})
	return ahead, err
}

// checkForks compares what every fork shows, and says of its data, with the model.
func (w *forkWorld) checkForks() error {
	for _, f := range w.forks {
		got := make([]byte, len(f.live()))
		if err := f.s.ReadAt(got, 0); err != nil {
			return err
		}
		if !sameImage(got, f.live()) {
			return fmt.Errorf("%s differs from the model in sector %d", f.pin, firstDifference(got, f.live()))
		}
		ranges, err := f.s.Allocation(0, int64(len(got)), 1000)
		if err != nil {
			return err
		}
		for _, r := range ranges {
			if part := got[r.Offset : r.Offset+r.Length]; r.Zero && !bytes.Equal(part, make([]byte, len(part))) {
				return fmt.Errorf("%s says that %d bytes at %d are zeroes", f.pin, r.Length, r.Offset)
			}
		}
	}
	return nil
}

// closeAll ends a run that no crash has ended.
func (w *forkWorld) closeAll() error {
	for _, f := range w.forks {
		if err := f.close(); err != nil {
			return err
		}
	}
	return errors.Join(w.closeViews(), w.s.Close())
}
