package journal

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"
)

// pinsLast has a window that a few dozen calls, of a second each, leave behind.
func pinsLast(cfg *Config) {
	cfg.Window = 12 * time.Second
	cfg.minThinSegments = 2
}

// pinsLastSmallIndex makes thinning meet stacks and runs, too.
func pinsLastSmallIndex(cfg *Config) {
	pinsLast(cfg)
	smallIndex(cfg)
}

// pinsLastBudget has a budget that is shorter than the window.
func pinsLastBudget(cfg *Config) {
	pinsLast(cfg)
	cfg.Window, cfg.JournalBytes = time.Minute, 4*MinSegmentBytes
}

// pinsLastHistory thins what is younger as well.
func pinsLastHistory(cfg *Config) {
	thinning(cfg)
	cfg.Window = 20 * time.Second
	cfg.History = cfg.History[:2]
}

// outlived is what a store may refuse because pins alone kept what is around it: what
// lies before a checkpoint that is older than the window, or, with a budget,
// before any, once there was something that kept the horizon.
func (m *model) outlived(pos Position) bool {
	if !m.held {
		return false
	}
	for number, at := range m.points {
		if at.Timeline == pos.Timeline && at.Seq >= pos.Seq && (m.budget || m.window > 0 && m.now().Sub(m.times[number]) > m.window) {
			return true
		}
	}
	return false
}

// unpinAny deletes a pin, any of them, the same one for the same seed.
func (w *world) unpinAny() error {
	names := slices.Sorted(maps.Keys(w.m.pins))
	if len(names) == 0 {
		return nil
	}
	name := names[w.rng.IntN(len(names))]
	w.m.attempt = &attempt{pin: name}
	err := w.s.Unpin(name)
	if err == nil {
		delete(w.m.pins, name)
	}
	return err
}

// pinsThinned is how many segments have been thinned to what pins need.
func (w *world) pinsThinned() (n int) {
	w.s.mu.RLock()
	defer w.s.mu.RUnlock()
	for _, g := range w.s.segments {
		if g.thinned == pinsOnly {
			n++
		}
	}
	return n
}

// fillSegment writes about half a segment.
func (w *world) fillSegment() error {
	for range 4 {
		if err := w.writeMuch(); err != nil {
			return err
		}
	}
	return nil
}

var pinSteps = []step{
	{20, (*world).writeMuch}, {8, (*world).checkpoint}, {1, (*world).discard}, {1, (*world).resize}, {5, (*world).flush}, {6, (*world).maintain},
	{1, (*world).fork}, {6, (*world).pin}, {4, (*world).unpinAny}, {1, (*world).reopen}, {1, (*world).hold},
}

// TestPinsOutliveTheWindow runs random calls with many pins that come and go in any
// order, and compares after every few of them every position that there ever was
// with the model: what is pinned reads as ever, and so does the rest, or it is
// refused with the named error and may be.
func TestPinsOutliveTheWindow(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"": pinsLast, "small index": pinsLastSmallIndex, "budget": pinsLastBudget, "history": pinsLastHistory,
	} {
		t.Run(name, func(t *testing.T) {
			met := 0
			for _, seed := range append([]uint64{30}, rounds(t)...) {
				for sub := range uint64(4) {
					w := newWorld(t, seed*100+sub, change)
					for range 10 {
						if err := w.run(pinSteps, 60); err != nil {
							t.Fatalf("seed %d/%d: %v", seed, sub, err)
						}
						w.m.learn(w.s)
						if err := errors.Join(w.maintain(), w.s.Flush(t.Context())); err != nil {
							t.Fatalf("seed %d/%d: %v", seed, sub, err)
						}
						w.m.acknowledge()
						met += w.pinsThinned()
						w.m.check(t, w.s, false)
						if t.Failed() {
							t.Fatalf("seed %d/%d", seed, sub)
						}
					}
					w.letGoOfPins(seed, sub)
				}
			}
			if met == 0 {
				t.Error("nothing was thinned for pins")
			}
		})
	}
}

// letGoOfPins deletes all pins, one after the other, and closes the store.
func (w *world) letGoOfPins(seed, sub uint64) {
	t := w.t
	t.Helper()
	if err := w.closeViews(); err != nil {
		t.Fatalf("seed %d/%d: %v", seed, sub, err)
	}
	for len(w.m.pins) > 0 {
		if err := errors.Join(w.unpinAny(), w.maintain()); err != nil {
			t.Fatalf("seed %d/%d: %v", seed, sub, err)
		}
	}
	w.m.attempt = nil
	w.m.check(t, w.s, false)
	checkNothingHeld(t, w.s)
	if err := w.s.Close(); err != nil {
		t.Fatal(err)
	}
	report, err := Verify(t.Context(), Config{FS: w.mem, Dir: worldDir})
	if err != nil || !report.OK() {
		t.Fatalf("seed %d/%d: verify: %v, damage %+v", seed, sub, err, report.Damage)
	}
}
