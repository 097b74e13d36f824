package journal

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// follower is a record reader that rebuilds the image from what it reads.
type follower struct {
	*RecordReader
	at    Position
	image []byte
}

// wanderer is a world that also undoes rewinds and follows the records.
type wanderer struct {
	*world
	follower *follower
	undo     Position // the tip before the last rewind
}

func (w *wanderer) rewind() error {
	w.undo = w.m.tip
	return w.fork()
}

// undoRewind forks at the tip that the last rewind left behind.
func (w *wanderer) undoRewind() error {
	at := w.undo
	if at.Timeline == 0 || !w.m.descends(at, w.s.Horizon()) {
		return nil
	}
	w.undo = Position{}
	line, err := w.s.Fork(at, "undo")
	if err != nil {
		return err
	}
	w.m.acknowledge()
	w.m.learn(w.s)
	w.m.tip = Position{line.ID, at.Seq}
	w.m.images[w.m.tip], w.m.durable[w.m.tip] = w.m.images[at], true
	w.m.past = append(w.m.past, w.m.tip)
	return nil
}

// follow reads the records that are durable and compares every step of the
// way with the model.
func (w *wanderer) follow() error {
	if w.follower == nil {
		all := w.candidates()
		at := all[w.rng.IntN(len(all))]
		r, err := w.s.Records(at)
		if errors.Is(err, ErrDiverged) {
			return nil
		}
		if err != nil {
			return err
		}
		w.follower = &follower{r, at, append([]byte(nil), w.m.images[at]...)}
	}
	f := w.follower
	for range w.rng.IntN(20) {
		if !f.Ready() {
			_, _, err := f.step()
			passed := errors.Is(err, ErrHorizon) && !w.m.descends(f.at, w.s.Horizon())
			if passed || errors.Is(err, ErrDiverged) {
				w.stopFollowing()
				return nil
			}
			return err
		}
		r, err := f.Next(context.Background())
		if err != nil {
			return err
		}
		f.image = applied(f.image, &r)
		if want := w.m.images[r.Position]; r.Position.Seq != f.at.Seq+1 || len(f.image) != len(want) || !sameImage(f.image, want) {
			return fmt.Errorf("record %s after %s does not lead to the image there", r.Position, f.at)
		}
		if !w.m.durable[r.Position] && w.s.Durable().Seq < r.Position.Seq {
			return fmt.Errorf("record %s is offered and not durable", r.Position)
		}
		f.at = r.Position
	}
	return nil
}

func (w *wanderer) stopFollowing() {
	if w.follower != nil {
		w.follower.Close()
		w.follower = nil
	}
}

// applied returns the image behind a record. None of them reaches beyond the
// size that those before it gave the volume.
func applied(image []byte, r *Record) []byte {
	switch r.Kind {
	case KindWrite:
		copy(image[r.Offset:], r.Payload)
	case KindDiscard, KindZero:
		clear(image[r.Offset : r.Offset+r.Length])
	case KindResize:
		image = append(image, make([]byte, max(0, r.Length-int64(len(image))))...)
	}
	return image
}

func (w *wanderer) reopenAll() error {
	w.stopFollowing()
	return w.reopen()
}

// tidy moves the clock on, so that records leave the window, and maintains.
func (w *wanderer) tidy() error {
	w.clock.Advance(time.Duration(w.rng.IntN(20)) * time.Second)
	return w.maintain()
}

func (w *wanderer) steps() []step {
	on := func(call func() error) func(*world) error { return func(*world) error { return call() } }
	return []step{
		{24, (*world).write}, {6, (*world).discard}, {1, (*world).resize}, {3, (*world).checkpoint}, {4, (*world).flush},
		{3, on(w.tidy)}, {1, on(w.rewind)}, {1, on(w.undoRewind)}, {2, (*world).pin}, {2, (*world).unpin},
		{1, on(w.reopenAll)}, {3, (*world).hold}, {6, on(w.follow)}, {4, (*world).scrub},
		{2, (*world).keepPoint}, {1, (*world).maintainKept},
	}
}

// TestRandomOperations compares a store with the model through a long random
// life, by window, by budget and with all history kept. Passes of the scrub follow
// one another in it.
func TestRandomOperations(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"all history": func(*Config) {},
		"budget":      shortJournal,
		"small index": smallIndex,
		"small index and budget": func(cfg *Config) {
			smallIndex(cfg)
			cfg.JournalBytes = 6 * MinSegmentBytes
		},
		"window": func(cfg *Config) { cfg.Window = 40 * time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			scrubbed := 0 // lives in which a pass came to its end
			for _, seed := range rounds(t) {
				for sub := range uint64(6) {
					w := &wanderer{world: newWorld(t, seed*100+sub, func(cfg *Config) {
						cfg.ScrubEvery = MinScrubEvery
						change(cfg)
					})}
					w.live(seed*100 + sub)
					if !w.s.ScrubStats().LastFull.IsZero() {
						scrubbed++
					}
				}
			}
			if scrubbed == 0 {
				t.Fatal("no pass of the scrub came to its end")
			}
		})
	}
}

func (w *wanderer) live(seed uint64) {
	w.t.Helper()
	defer func() {
		if w.t.Failed() {
			w.t.Logf("seed %d; the last operations were:\n%s", seed, w.fault.Trace())
		}
	}()
	steps := w.steps()
	for i := range 300 {
		if err := w.run(steps, 1); err != nil {
			w.t.Fatalf("seed %d, call %d: %v", seed, i, err)
		}
		if live := readAll(w.t, w.s, w.s.SizeBytes()); !sameImage(live, w.m.image()) {
			w.t.Fatalf("seed %d, call %d: live content differs in sector %d", seed, i, firstDifference(live, w.m.image()))
		}
		if i%100 == 99 {
			if err := w.flush(); err != nil {
				w.t.Fatal(err)
			}
			w.m.check(w.t, w.s, false)
		}
	}
	w.stopFollowing()
	if err := w.closeViews(); err != nil {
		w.t.Fatalf("seed %d: %v", seed, err)
	}
	w.s.KeepPoint(Position{}, 0)
	checkNothingHeld(w.t, w.s)
	mustClose(w.t, w.s)
	report, err := Verify(context.Background(), w.cfg)
	if err != nil || !report.OK() {
		w.t.Fatalf("seed %d: Verify: %+v, %v", seed, report.Damage, err)
	}
}

// checkNothingHeld makes sure that no reference to a segment was leaked: once
// nobody uses the store, each has the store's own, and the live index's.
func checkNothingHeld(t *testing.T, s *Store) {
	t.Helper()
	st := s.index.stack
	if st != nil && st.users.Load() != 1 {
		t.Fatalf("the live stack has %d users", st.users.Load())
	}
	for _, g := range s.segments {
		want := int64(1)
		if st != nil && st.held[g.id] != nil {
			want = 2
		}
		if n := g.users.Load(); n != want {
			t.Fatalf("segment %s has %d users, want %d", g.name, n, want)
		}
	}
	for key, r := range s.runs.open {
		if r.users != 1 || st == nil {
			t.Fatalf("index run %s has %d users", key.name(), r.users)
		}
	}
	if n := len(s.holds); n != 0 {
		t.Fatalf("%d positions are held", n)
	}
}
