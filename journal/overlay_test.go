package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// forkWorld is a store in production with writable forks of its past.
type forkWorld struct {
	*world
	forks []*testFork
	made  int
	// reclaimed are bytes that forks gave back.
	reclaimed int64
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
}

// reclaimSteps overwrite one or two forks many times.
var reclaimSteps = []forkStep{
	{2, (*forkWorld).produce}, {1, (*forkWorld).create}, {12, (*forkWorld).overwriteFork}, {4, (*forkWorld).writeFork}, {2, (*forkWorld).discardInFork},
	{1, (*forkWorld).flushFork}, {4, (*forkWorld).reclaimInFork}, {1, (*forkWorld).reopenFork}, {1, (*forkWorld).checkForks},
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
	f := w.some()
	if f == nil {
		return nil
	}
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

// TestForksBesideProduction makes random calls on a store and on forks of
// several of its moments, and compares each with its own model.
func TestForksBesideProduction(t *testing.T) {
	for name, change := range map[string]func(*Config){"short journal": shortJournal, "small index": func(c *Config) { smallIndex(c); shortJournal(c) }} {
		t.Run(name, func(t *testing.T) {
			made, destaged, reclaimed := 0, false, int64(0)
			for _, seed := range rounds(t) {
				w := newForkWorld(t, seed, change)
				if err := w.runForks(forkSteps, 1500); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				made, destaged, reclaimed = made+w.made, destaged || w.s.Horizon().Seq > 0, reclaimed+w.reclaimed
				if err := w.checkForks(); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if err := w.flush(); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				w.m.check(t, w.s, false)
				if err := w.closeAll(); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
			if made < 10 || !destaged || reclaimed == 0 {
				t.Fatalf("%d forks, production destaged: %t, %d bytes reclaimed: not all was tried", made, destaged, reclaimed)
			}
		})
	}
}

// TestForkCrashAtEveryOperation cuts the power, and in another branch kills the
// process, at every operation of a store and of forks of it. Production loses
// nothing by the forks, and each fork that was made holds all that was flushed.
func TestForkCrashAtEveryOperation(t *testing.T) {
	for name, tt := range map[string]struct {
		steps []forkStep
		calls int
		tried func(w *forkWorld) bool
	}{
		"life":    {forkSteps, 90, func(w *forkWorld) bool { return w.made >= 3 }},
		"reclaim": {reclaimSteps, 70, func(w *forkWorld) bool { return w.reclaimed >= 2*MinSegmentBytes }},
	} {
		t.Run(name, func(t *testing.T) { crashForks(t, tt.steps, tt.calls, tt.tried) })
	}
}

func crashForks(t *testing.T, steps []forkStep, calls int, tried func(w *forkWorld) bool) {
	fulfilled := 0 // seeds
	defer func() {
		if fulfilled == 0 && !t.Failed() {
			t.Errorf("no seed of %d made what the calls are there for", rounds(t))
		}
	}()
	for _, seed := range rounds(t) {
		dry := newForkWorld(t, seed, shortJournal)
		if err := dry.runForks(steps, calls); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := dry.closeAll(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if tried(dry) {
			fulfilled++
		}
		for k := int64(1); k <= dry.fault.Count(); k++ {
			w := newForkWorld(t, seed, shortJournal)
			chance := rand.New(rand.NewPCG(seed, uint64(k)))
			w.fault.CrashTornAt(k, chance)
			err := w.runForks(steps, calls)
			if err == nil {
				err = w.closeAll()
			}
			if !errors.Is(err, vfs.ErrCrashed) {
				t.Fatalf("seed %d, operation %d: %v, want the crash", seed, k, err)
			}
			trace, model := w.fault.Trace(), w.m
			for _, crash := range []struct {
				mem   *vfs.Mem
				lossy bool
			}{{w.mem.KillClone(), false}, {w.mem.Crash(chance), true}} {
				w.m, w.views = model.clone(), nil
				w.surviveWithForks(crash.mem, crash.lossy)
				if t.Failed() {
					t.Fatalf("seed %d, crash at operation %d, power lost: %t; the last ones were:\n%s", seed, k, crash.lossy, trace)
				}
			}
		}
	}
}

func (w *forkWorld) surviveWithForks(mem *vfs.Mem, lossy bool) {
	w.t.Helper()
	w.mount(mem)
	w.checkUndamaged()
	if err := w.open(); err != nil {
		w.t.Errorf("recover: %v", err)
		return
	}
	w.m.check(w.t, w.s, lossy)
	for _, f := range w.forks {
		if err := w.checkSurvivor(f, lossy); err != nil {
			w.t.Errorf("%s at %s: %v", f.pin, f.at, err)
		}
	}
	mustClose(w.t, w.s)
}

// checkSurvivor opens a fork after a crash.
func (w *forkWorld) checkSurvivor(f *testFork, lossy bool) (err error) {
	survivor := *f
	survivor.s, survivor.origin = nil, nil
	err = w.openFork(&survivor)
	defer func() {
		if survivor.s != nil {
			err = errors.Join(err, survivor.s.Close())
		}
		if survivor.origin != nil {
			err = errors.Join(err, survivor.origin.Close())
		}
	}()
	switch {
	case f.leaving: // what is left of it is removed, whatever it is
		return nil
	case !f.complete && errors.Is(err, ErrNotStore):
		return nil
	case err != nil:
		return err
	}
	got := make([]byte, survivor.s.SizeBytes())
	if err := survivor.s.ReadAt(got, 0); err != nil {
		return err
	}
	first := len(f.states) - 1 // a killed process loses nothing
	if lossy {
		first = f.flushed
	}
	wanted := f.states[first:]
	if f.attempt != nil {
		wanted = append(slices.Clone(wanted), f.attempt)
	}
	if !slices.ContainsFunc(wanted, func(state []byte) bool { return sameImage(state, got) }) {
		return fmt.Errorf("it shows none of %d states that it may have", len(wanted))
	}
	return nil
}

// overlaid is a store with a sector of each of two values, and an overlay of it.
func overlaid(t *testing.T) (parent *Store, origin *View, cfg Config) {
	t.Helper()
	cfg = testConfig(t)
	parent = createAndOpen(t, cfg)
	t.Cleanup(func() { mustClose(t, parent) })
	at, err := parent.Write(bytes.Repeat([]byte{1}, SectorBytes), 0)
	if err != nil {
		t.Fatal(err)
	}
	if origin, err = parent.View(at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = origin.Close() })
	cfg.Dir += "-overlay"
	cfg.Origin = origin
	if err := Create(cfg, Spec{VolumeID{9}, testVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	return parent, origin, cfg
}

func TestOverlayOpensOverItsOriginOnly(t *testing.T) {
	parent, _, cfg := overlaid(t)
	later, err := parent.Write(bytes.Repeat([]byte{2}, SectorBytes), 0)
	if err != nil {
		t.Fatal(err)
	}
	other, err := parent.View(later)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	plain := Config{FS: cfg.FS, Dir: cfg.Dir + "-plain", SegmentBytes: MinSegmentBytes}
	if err := Create(plain, Spec{VolumeID{8}, testVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	plain.Origin = other
	alone, elsewhere := cfg, cfg
	alone.Origin, elsewhere.Origin = nil, other
	for name, tt := range map[string]struct {
		open func() error
		want error
	}{
		"without origin": {func() error { _, err := Open(alone); return err }, ErrOverlay},
		"read-only":      {func() error { _, err := OpenReadOnly(alone); return err }, ErrOverlay},
		"another origin": {func() error { _, err := Open(elsewhere); return err }, ErrForeign},
		"a plain store":  {func() error { _, err := Open(plain); return err }, ErrForeign},
		"another size":   {func() error { cfg.Dir += "2"; return Create(cfg, Spec{VolumeID{7}, SectorBytes}) }, ErrRange},
	} {
		if err := tt.open(); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if report, err := Verify(context.Background(), alone); err != nil || !report.OK() {
		t.Errorf("verify: %+v, %v", report, err)
	}
}

// TestOverlayNeverDestages has an overlay asked for all that would move records
// to a base.
func TestOverlayNeverDestages(t *testing.T) {
	parent, _, cfg := overlaid(t)
	s := mustOpen(t, cfg)
	defer mustClose(t, s)
	want := bytes.Repeat([]byte{5}, 2*MinSegmentBytes)
	for off := 0; off < len(want); off += 64 << 10 {
		if _, err := s.Write(want[off:][:64<<10], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	s.SetRetention(Retention{JournalBytes: 1})
	if freed, err := s.Reclaim(context.Background()); err != nil || freed != 0 {
		t.Errorf("reclaim: %d bytes, %v", freed, err)
	}
	if err := s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(readAll(t, s, int64(len(want))), want) || s.Horizon().Seq != 0 {
		t.Errorf("the overlay was changed; its horizon is %s", s.Horizon())
	}
	if _, err := s.Resize(2 * testVolumeBytes); !errors.Is(err, ErrRange) {
		t.Errorf("resize: %v", err)
	}
	if p := readAll(t, parent, SectorBytes); p[0] != 1 {
		t.Errorf("the origin's volume holds %d", p[0])
	}
}

// budget is an Allowance of so many bytes.
type budget struct{ left int64 }

func (b *budget) Take(bytes int64, renewing bool) error {
	if limit := b.left + 2*MinSegmentBytes; bytes > limit || bytes > b.left && !renewing {
		return fmt.Errorf("%d of %d bytes: %w", bytes, b.left, vfs.ErrNoSpace)
	}
	b.left -= bytes
	return nil
}

func (b *budget) Give(bytes int64) { b.left += bytes }

func TestAllowanceRefusesSegments(t *testing.T) {
	_, _, cfg := overlaid(t)
	allowed := &budget{3 * MinSegmentBytes}
	cfg.Allowance = allowed
	s := mustOpen(t, cfg)
	p := bytes.Repeat([]byte{7}, 64<<10)
	written := 0
	var err error
	for ; err == nil && written < 1000; written++ {
		_, err = s.Write(p, 0)
	}
	if !errors.Is(err, ErrFull) || written < 8 || allowed.left >= MinSegmentBytes {
		t.Fatalf("after %d writes: %v, and %d bytes are left", written, err, allowed.left)
	}
	// The store goes on: it reads, flushes, and takes writes once there is room,
	// which it makes itself of what was overwritten.
	if got := readAll(t, s, int64(len(p))); !bytes.Equal(got, p) {
		t.Error("content differs after a write was refused")
	}
	if err := s.Flush(context.Background()); err != nil {
		t.Error(err)
	}
	for i := range 100 {
		p[0] = byte(i)
		_, err := s.Write(p, int64(i%3)<<16)
		if errors.Is(err, ErrFull) {
			if _, err := s.Reclaim(context.Background()); err != nil {
				t.Fatal(err)
			}
			_, err = s.Write(p, int64(i%3)<<16)
		}
		if err != nil || allowed.left < -2*MinSegmentBytes {
			t.Fatalf("write %d: %v, and %d bytes are left", i, err, allowed.left)
		}
	}
	if got := readAll(t, s, int64(len(p))); got[0] != 99 {
		t.Errorf("the overlay holds %d", got[0])
	}
	// What is not overwritten stays, and the store says that it is full.
	for i := 4; err == nil || i < 10; i++ {
		if _, err = s.Write(p, int64(i)<<16); err != nil {
			_, reclaimErr := s.Reclaim(context.Background())
			_, err = s.Write(p, int64(i)<<16)
			if i > 60 {
				t.Fatalf("%d bytes were written: %v, %v", i<<16, err, reclaimErr)
			}
		}
	}
	if freed, reclaimErr := s.Reclaim(context.Background()); !errors.Is(err, ErrFull) || freed != 0 || reclaimErr != nil {
		t.Errorf("full with what differs: %v; reclaim: %d, %v", err, freed, reclaimErr)
	}
	mustClose(t, s)
}
