package journal

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

const ageingHistory = "1m:2h,10m:12h,1h:24h"

// ageingRig is a store whose history is small in bytes and long in time.
type ageingRig struct {
	t     *testing.T
	cfg   Config
	clock *clock.Manual
	s     *Store
	next  CheckpointNumber
	ahead time.Duration // of the clock that points are made by
}

func newAgeingRig(t *testing.T) *ageingRig {
	history, err := ParseHistory(ageingHistory)
	if err != nil {
		t.Fatal(err)
	}
	mem, now := vfs.NewMem(), clock.NewManual(worldStart)
	makeParent(t, mem)
	r := &ageingRig{t: t, clock: now, cfg: Config{
		FS: mem, Dir: worldDir, Clock: now, SegmentBytes: MinSegmentBytes, Window: history.Window(), History: history,
	}}
	r.s = createAndOpen(t, r.cfg)
	t.Cleanup(func() { mustClose(t, r.s) })
	return r
}

// work writes for a while, with a checkpoint each minute, and a segment for
// each few of them.
func (r *ageingRig) work(d time.Duration) {
	r.t.Helper()
	for range d / time.Minute {
		r.point()
		r.clock.Advance(time.Minute)
	}
	r.maintain()
}

func (r *ageingRig) point() {
	r.t.Helper()
	r.next++
	block := make([]byte, 64<<10)
	block[0] = byte(r.next)
	_, err := r.s.Write(block, 0)
	c := Checkpoint{Number: r.next, Time: r.clock.Now().Add(r.ahead), CheckpointInfo: CheckpointInfo{Group: "shop", Members: []VolumeID{testVolume}}}
	if err == nil {
		_, err = r.s.Checkpoint(c)
	}
	if err == nil {
		err = r.s.Flush(r.t.Context())
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *ageingRig) maintain() {
	r.t.Helper()
	if err := r.s.Maintain(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// reopen closes the store for a while.
func (r *ageingRig) reopen(d time.Duration) {
	r.t.Helper()
	mustClose(r.t, r.s)
	r.clock.Advance(d)
	r.s = mustOpen(r.t, r.cfg)
	r.clock.Advance(r.s.cfg.thinSettle) // so that thinning begins
	r.maintain()
}

// setClock closes the store and opens it by a clock that shows something else.
func (r *ageingRig) setClock(now time.Time) {
	r.t.Helper()
	mustClose(r.t, r.s)
	r.clock = clock.NewManual(now)
	r.cfg.Clock = r.clock
	r.s = mustOpen(r.t, r.cfg)
}

// oldest is how long before a moment the oldest point was made that can be opened.
func (r *ageingRig) oldest(before time.Time) time.Duration {
	r.t.Helper()
	listed := r.s.CheckpointsIn("shop", 0, 0)
	if len(listed) == 0 {
		r.t.Fatal("no point is left")
	}
	v, err := r.s.View(listed[0].Position)
	if err != nil {
		r.t.Fatalf("the oldest point, of %s, cannot be opened: %v", listed[0].Time, err)
	}
	if err := v.Close(); err != nil {
		r.t.Fatal(err)
	}
	return before.Sub(listed[0].Time)
}

// TestHistoryOutlivesARest: whatever keeps an application from writing, what was there
// before is there when it goes on, and ages from then on.
func TestHistoryOutlivesARest(t *testing.T) {
	for _, tt := range []struct {
		name string
		rest func(*ageingRig)
	}{
		{"store closed for a weekend", func(r *ageingRig) { r.reopen(60 * time.Hour) }},
		{"nothing written for a weekend", func(r *ageingRig) {
			for range 60 {
				r.clock.Advance(time.Hour)
				r.maintain()
			}
		}},
		{"clock ten years ahead", func(r *ageingRig) {
			r.clock.Advance(10 * 365 * 24 * time.Hour)
			r.point()
			r.maintain()
		}},
		{"twice", func(r *ageingRig) { r.reopen(60 * time.Hour); r.reopen(60 * time.Hour) }},
		{"for a moment in between", func(r *ageingRig) { r.reopen(60 * time.Hour); r.work(10 * time.Minute); r.reopen(60 * time.Hour) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newAgeingRig(t)
			r.work(6 * time.Hour)
			stopped := r.clock.Now()
			tt.rest(r)
			if got := r.oldest(stopped); got < 5*time.Hour {
				t.Fatalf("of six hours of history %s are left", got)
			}
			r.work(2 * time.Hour)
			if got := r.oldest(stopped); got < 5*time.Hour {
				t.Fatalf("of six hours of history %s are left after two hours more of work", got)
			}
			r.work(24 * time.Hour)
			if got := r.oldest(stopped); got > 0 {
				t.Fatalf("the oldest point is still %s older than the rest after a window of work", got)
			}
		})
	}
}

// TestHistoryAgesWithoutARest: what is thinned, and pauses that are not long, are no rests.
func TestHistoryAgesWithoutARest(t *testing.T) {
	r := newAgeingRig(t)
	for range 60 { // two and a half days
		r.work(10 * time.Minute)
		r.clock.Advance(50 * time.Minute)
	}
	r.reopen(0)
	window, segment := r.cfg.Window, 2*time.Hour
	if got := r.oldest(r.clock.Now()); got > window+segment {
		t.Errorf("the oldest point is %s old with a window of %s", got, window)
	}
}

// TestClockSetBackAfterItWasAhead: the points that the wrong clock made are of now.
func TestClockSetBackAfterItWasAhead(t *testing.T) {
	ages := ageingOf([]time.Time{worldStart, worldStart.Add(time.Minute), worldStart.Add(1000 * time.Hour)}, thinnedTo(0), worldStart.Add(2*time.Minute))
	for at, want := range map[time.Duration]time.Duration{0: time.Hour + time.Minute, time.Minute: time.Hour, 1000 * time.Hour: 0} {
		if got := ages.age(worldStart.Add(at)); got != want {
			t.Errorf("what was written at %s is %s old, want %s", at, got, want)
		}
	}
}

// TestRewoundFromAClockThatWasAhead: points of a time that is still to come, on a timeline that
// was left, make nothing older that is written on another one, whatever pauses there are.
func TestRewoundFromAClockThatWasAhead(t *testing.T) {
	r := newAgeingRig(t)
	r.work(6 * time.Hour)
	right, back := r.clock.Now(), r.s.NewestCheckpoint()
	r.setClock(right.Add(1000 * time.Hour))
	r.point()
	r.setClock(right)
	if _, err := r.s.Fork(back.Position, "rewind"); err != nil {
		t.Fatal(err)
	}
	r.point()
	r.clock.Advance(2 * time.Hour)
	r.work(time.Hour)
	if got := r.oldest(right); got < 5*time.Hour {
		t.Errorf("of six hours of history %s are left", got)
	}
	for _, c := range r.s.CheckpointsIn("shop", 0, 0) {
		r.s.mu.RLock()
		ages := r.s.ageingLocked()
		r.s.mu.RUnlock()
		if got, most := ages.age(c.Time), r.clock.Now().Sub(c.Time); got < 0 || got > most {
			t.Errorf("what was written %s ago is %s old", most, got)
		}
	}
}

// TestRewoundWithinASegmentOfAClockThatWasAhead: what was written by that clock, in a segment that the
// path leaves before, does not keep what is on the path.
func TestRewoundWithinASegmentOfAClockThatWasAhead(t *testing.T) {
	r := newAgeingRig(t)
	r.work(time.Hour + time.Minute)
	right, back := r.clock.Now(), r.s.NewestCheckpoint()
	r.clock.Advance(1000 * time.Hour)
	r.point()
	if g := r.s.segmentOfLocked(back.Position); g.last == back.Position.Seq {
		t.Fatalf("segment %s ends at %s", g.name, back.Position)
	}
	r.setClock(right)
	if _, err := r.s.Fork(back.Position, "rewind"); err != nil {
		t.Fatal(err)
	}
	r.work(30 * time.Hour)
	if got := r.oldest(r.clock.Now()); got > r.cfg.Window+2*time.Hour {
		t.Errorf("the oldest point is %s old with a window of %s", got, r.cfg.Window)
	}
}

// TestStoreWhoseClockIsBehind: a replica keeps what its primary has written lately, also where
// its own clock shows a time of before the window.
func TestStoreWhoseClockIsBehind(t *testing.T) {
	r := newAgeingRig(t)
	r.ahead = 48 * time.Hour
	r.work(6 * time.Hour)
	if got := r.oldest(r.clock.Now().Add(r.ahead)); got < 5*time.Hour {
		t.Errorf("of six hours of history %s are left", got)
	}
	r.work(30 * time.Hour)
	if got := r.oldest(r.clock.Now().Add(r.ahead)); got > r.cfg.Window+2*time.Hour {
		t.Errorf("the oldest point is %s old with a window of %s", got, r.cfg.Window)
	}
}

func TestAge(t *testing.T) {
	at := func(h float64) time.Time { return worldStart.Add(time.Duration(h * float64(time.Hour))) }
	points := []time.Time{at(0), at(1), at(9), at(10)} // a rest from 1 to 9
	for _, tt := range []struct {
		name              string
		interval          time.Duration
		now, written, age float64
	}{
		{"now", 0, 10, 10, 0},
		{"since the rest", 0, 10, 9.5, 0.5},
		{"at its end", 0, 10, 9, 1},
		{"in what does not count of it", 0, 10, 5, 1},
		{"in what counts of it", 0, 10, 1.5, 1.5},
		{"at its beginning", 0, 10, 1, 2},
		{"before it", 0, 10, 0.5, 2.5},
		{"in a rest that goes on", 0, 17, 10, 1},
		{"before two rests", 0, 17, 1, 3},
		{"later than the points", 0, 10.5, 10.5, 0},
		{"of a clock that is ahead", 0, 10, 12, -2},
		{"no rest with points as far apart", 4 * time.Hour, 10, 0, 10},
		{"a rest in spite of that", 3 * time.Hour, 10, 0, 3},
		{"nothing known", pinsOnly, 10, 0, 10},
	} {
		ages := ageingOf(points, thinnedTo(tt.interval), at(tt.now))
		if got := ages.age(at(tt.written)); got != time.Duration(tt.age*float64(time.Hour)) {
			t.Errorf("%s: %s, want %g hours", tt.name, got, tt.age)
		}
	}
	none := ageingOf(nil, thinnedTo(0), at(100))
	if got := none.age(at(0)); got != 100*time.Hour {
		t.Errorf("without a point: %s", got)
	}
}

// TestCutoffIsWhereAgeIs: of random histories, what lies before the cutoff of an age is
// older, and nothing else; and age rises with time, never faster than the clock.
func TestCutoffIsWhereAgeIs(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 24))
		points := []time.Time{worldStart}
		for range rng.IntN(30) {
			points = append(points, points[len(points)-1].Add(time.Duration(rng.Int64N(int64(5*time.Hour)))))
		}
		now := points[len(points)-1].Add(time.Duration(rng.Int64N(int64(5 * time.Hour))))
		ages := ageingOf(slices.Clone(points), thinnedTo(0), now)
		span := now.Sub(worldStart)
		before, last := worldStart, ages.age(worldStart)
		for off := time.Duration(0); off <= span; off += span/500 + 1 {
			at := worldStart.Add(off)
			age := ages.age(at)
			if age > last || last-age > at.Sub(before) {
				t.Fatalf("seed %d: age fell by %s in %s", seed, last-age, at.Sub(before))
			}
			before, last = at, age
			for _, limit := range []time.Duration{age - 1, age, age + 1} {
				if older := at.Before(ages.cutoff(limit)); older != (age > limit) {
					t.Fatalf("seed %d: age %s, before the cutoff of %s: %t", seed, age, limit, older)
				}
			}
		}
	}
}

// TestAgesOfAStore: a store's own ages are those that its points' times tell, also when
// it is opened again.
func TestAgesOfAStore(t *testing.T) {
	r := newAgeingRig(t)
	var times []time.Time
	for _, pause := range []time.Duration{time.Minute, 30 * time.Minute, 7 * time.Hour, time.Minute, 2 * time.Hour, 0} {
		for range 5 {
			times = append(times, r.clock.Now())
			r.point()
			r.clock.Advance(time.Minute)
		}
		r.clock.Advance(pause)
	}
	check := func(when string) {
		r.s.mu.RLock()
		got := r.s.ageingLocked()
		r.s.mu.RUnlock()
		want := ageingOf(times, thinnedTo(0), r.clock.Now())
		if got.now != want.now || !slices.Equal(got.rests, want.rests) || len(want.rests) != 2 {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
	}
	check("open")
	mustClose(t, r.s)
	r.s = mustOpen(t, r.cfg)
	check("opened again")
}

// thinnedTo is for points that have been thinned to an interval at every age.
func thinnedTo(interval time.Duration) func(time.Duration) time.Duration {
	return func(time.Duration) time.Duration { return interval }
}
