package site_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

// clockRate is how many times faster than the machine's the clocks of a life that ages run.
const clockRate = 4

// roomyBudget is more than a life ever writes: history goes by its age alone.
const roomyBudget = 1 << 30

// agingHistories are what the group of a life that ages keeps, by the interval of its points.
var agingHistories = map[time.Duration][]string{
	100 * time.Millisecond: {"100ms:5s,1s:1m,10s:1h", "100ms:2s,10s:10m", "100ms:1m"},
	time.Second:            {"1s:5s,10s:1m", "1s:10s,5s:3m", "1s:2m"},
	time.Hour:              {"1s:5s,10s:1h", "1s:20s,1m:30m,10m:5h", "10s:1m,10m:1d"},
}

// runClock has a clock go on by itself until the function it returns is called.
func runClock(c *clock.Manual) (stop func()) {
	ended := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for last := time.Now(); ; {
			select {
			case <-ended:
				return
			case now := <-tick.C:
				c.Advance(max(0, now.Sub(last)) * clockRate)
				last = now
			}
		}
	})
	return func() { close(ended); running.Wait() }
}

// startClocks gives each site a clock of its own. They differ, as those of machines do.
func (l *life) startClocks() {
	for i, name := range []string{"a", "b"} {
		apart := time.Duration(0)
		if i > 0 {
			apart = []time.Duration{0, time.Second, -time.Second, time.Minute, -5 * time.Minute}[l.rng.IntN(5)]
		}
		c := clock.NewManual(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC).Add(apart))
		l.sites[name].clock = c
		l.t.Cleanup(runClock(c))
	}
}

// heldView is a recovery point that is open while time passes.
type heldView struct {
	site.Views
	holds cut
	era   int
}

// age has something happen for which history has to become old.
func (l *life) age(s *lifeSite) {
	switch n := l.rng.IntN(24); {
	case s.fault.Crashed():
		l.crash(s)
	case n < 10:
		l.pass()
	case n < 14:
		l.holdView(s)
	case !l.serves():
		l.crash(l.main())
	case n < 19:
		l.overwrite()
	case n < 21:
		l.openOld(s)
	case n < 22:
		l.pinOld()
	default:
		l.keepBy()
	}
}

// pass has time pass on both sites, with points in it, or without: then it counts as an
// hour at most. What is due of it is done before it returns.
func (l *life) pass() {
	times := []time.Duration{time.Second, 5 * time.Second, 20 * time.Second, 70 * time.Second, 3 * time.Minute, 11 * time.Minute, time.Hour, 5 * time.Hour}
	d, parts := times[l.rng.IntN(len(times))], 1+l.rng.IntN(6)
	l.logf("%v pass in %d parts", d, parts)
	for i := range parts {
		if i > 0 && l.serves() {
			l.write()
		}
		if i > 0 && l.serves() {
			l.take()
		}
		for _, s := range l.sites {
			s.clock.Advance(d / time.Duration(parts))
		}
	}
	for _, name := range []string{"a", "b"} {
		s := l.sites[name]
		for _, id := range []journal.VolumeID{volumeA, volumeB, volumeC} {
			l.maintain(s, id)
		}
		s.opened.TendForks(l.ctx)
	}
}

// storeOf is that of a site's volume; nil if it is not open.
func (s *lifeSite) storeOf(id journal.VolumeID) *journal.Store {
	guarded, ok := s.opened.exports.device(id).(*engine.Guarded)
	if !ok {
		return nil
	}
	eng, ok := guarded.Device.(*engine.Engine)
	if !ok {
		return nil
	}
	return eng.Store()
}

// maintain does what is due of a member.
func (l *life) maintain(s *lifeSite, id journal.VolumeID) {
	store := s.storeOf(id)
	if store == nil || s.fault.Crashed() {
		return
	}
	before := store.Stats().Thinning.Rewrites
	if err := store.Maintain(l.ctx); err != nil {
		var allowed []error
		if s.name != l.primary {
			allowed = append(allowed, journal.ErrClosed)
		}
		l.failed(s, "maintain", err, allowed...)
	}
	l.counts["rewrites"] += int(store.Stats().Thinning.Rewrites - before)
}

// overwrite writes what is enough to be worth a rewrite, and nobody looks at.
func (l *life) overwrite() {
	s := l.main()
	for range 1 + l.rng.IntN(3) {
		for id := range l.live {
			for i := range 3 {
				dev := s.opened.exports.device(id)
				if dev == nil {
					return
				}
				data := make([]byte, 1<<20)
				for k := range data {
					data[k] = byte(l.next)
				}
				if err := dev.WriteAt(l.ctx, data, int64(1+i)<<20, false); err != nil {
					l.failed(s, "write much", err)
					return
				}
			}
		}
		l.write()
		if !l.serves() {
			return
		}
		if l.take(); !l.serves() {
			return
		}
		for _, s := range l.sites {
			s.clock.Advance(time.Duration(1+l.rng.IntN(8)) * time.Second)
		}
	}
}

// oldPoint is any point that there ever was.
func (l *life) oldPoint() (at string, ok bool) {
	keys := slices.SortedFunc(maps.Keys(l.points), func(a, b pointKey) int { return int(a.time - b.time) })
	if len(keys) == 0 {
		return "", false
	}
	k := keys[l.rng.IntN(len(keys))]
	if l.rng.IntN(4) == 0 {
		return time.Unix(0, k.time).UTC().Format(time.RFC3339Nano), true
	}
	return strconv.FormatUint(uint64(k.number), 10), true
}

// openOld opens any point that there ever was, which may be gone, and perhaps rewinds to it.
func (l *life) openOld(s *lifeSite) {
	at, ok := l.oldPoint()
	if !ok {
		return
	}
	v, err := s.opened.OpenView(l.ctx, "shop", at)
	if err != nil {
		l.failed(s, "open "+at, err, append(l.replaced(s), group.ErrNoPoint)...)
		if errors.Is(err, group.ErrNoPoint) {
			l.counts["points gone"]++
		}
		return
	}
	p := v.Point
	if err := s.opened.CloseView(v.ID); err != nil {
		l.fatalf("close a view: %v", err)
	}
	l.logf("%s of site %s is point %d", at, s.name, p.Checkpoint)
	if _, ok = l.read(s, &p); ok {
		l.counts["old points read"]++
	}
	if ok && s.name == l.primary && l.back == nil && l.rng.IntN(2) == 0 {
		l.rewindTo(&p)
	}
}

// replaced are the errors of a replica of which an image is being taken, or that has none yet.
func (l *life) replaced(s *lifeSite) []error {
	if s.name == l.primary {
		return nil
	}
	return append(slices.Clone(replacedErrors), group.ErrNotFound) // nothing has arrived yet
}

// pinOld pins any point that there ever was, which may be gone.
func (l *life) pinOld() {
	at, ok := l.oldPoint()
	if !ok || len(l.pins) > 2 {
		return
	}
	s, name := l.main(), fmt.Sprintf("pin-%d", l.next)
	l.next++
	p, err := s.opened.Groups().PinPoint(l.ctx, "shop", name, at)
	if err != nil {
		l.failed(s, "pin "+at, err, group.ErrNoPoint)
		return
	}
	l.logf("point %d, which is %s, of site %s is pinned as %s", p.Checkpoint, at, s.name, name)
	l.pins[name] = &p
	l.counts["pins"]++
	l.checkPins()
}

// holdView opens a point of a site that stays open while time passes, or reads and closes the one that is.
func (l *life) holdView(s *lifeSite) {
	if s.view != nil {
		l.endView(s)
		return
	}
	points, err := s.opened.Groups().Points(l.ctx, "shop")
	if err != nil {
		l.failed(s, "list points", err, group.ErrNotFound)
		return
	}
	if len(points) == 0 {
		return
	}
	p := &points[l.rng.IntN(len(points))]
	v, err := s.opened.OpenView(l.ctx, "shop", strconv.FormatUint(uint64(p.Checkpoint), 10))
	if err != nil {
		l.failed(s, "open a view", err, append(l.replaced(s), group.ErrNoPoint)...)
		return
	}
	held := &heldView{Views: v, era: l.era}
	if held.holds, err = l.readView(s, held); err != nil {
		l.failed(s, "read a view", err, l.replaced(s)...)
		return
	}
	l.logf("point %d of site %s is open", v.Point.Checkpoint, s.name)
	s.view = held
}

func (l *life) readView(s *lifeSite, v *heldView) (c cut, err error) {
	c = cut{}
	for _, id := range v.Members {
		dev, err := s.opened.ViewDevice(v.ID, id)
		if err != nil {
			return nil, err
		}
		if c[id], err = l.readImage(dev); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// endView makes sure that a view still shows what it did.
func (l *life) endView(s *lifeSite) {
	l.t.Helper()
	v := s.view
	s.view = nil
	c, err := l.readView(s, v)
	switch {
	case err != nil && s.name == l.primary && v.era == l.era:
		l.failed(s, "read a view that was open", err)
		return
	case err != nil:
		l.logf("a view of site %s: %v", s.name, err) // its store was replaced
	case !maps.Equal(c, v.holds):
		l.fatalf("the view of point %d of site %s shows %v, and showed %v", v.Point.Checkpoint, s.name, c, v.holds)
	default:
		l.counts["held views read"]++
	}
	if err := s.opened.CloseView(v.ID); err != nil && !errors.Is(err, site.ErrNoView) {
		l.failed(s, "close a view", err, l.replaced(s)...)
	}
}

// keepBy has the group keep its history by other tiers.
func (l *life) keepBy() {
	s := l.main()
	settings := quiet()
	settings.ReplicateTo = s.peer
	settings.CheckpointInterval = slices.Sorted(maps.Keys(agingHistories))[l.rng.IntN(len(agingHistories))]
	histories := agingHistories[settings.CheckpointInterval]
	settings.History = histories[l.rng.IntN(len(histories))]
	history, err := journal.ParseHistory(settings.History)
	if err != nil {
		l.fatalf("%v", err)
	}
	settings.Window, settings.JournalBytes = history.Window(), roomyBudget
	if l.rng.IntN(4) == 0 {
		settings.JournalBytes = int64(4+l.rng.IntN(40)) * journal.MinSegmentBytes
	}
	l.keeps, l.kept = nil, nil
	if err := s.opened.Groups().Modify(l.ctx, "shop", settings); err != nil {
		l.failed(s, "modify", err)
		return
	}
	if settings.JournalBytes == roomyBudget {
		l.keeps = history
	}
	l.logf("the settings are %+v", settings)
	l.counts["tiers set"]++
}

// listedSlack is what may pass on the clock between two looks at it.
const listedSlack = 20 * time.Second

// expectKept makes sure that what the group's history has to keep is listed: of each interval of a
// tier its first point. But for the interval in which a rewind or its undo may have gone to before a volume joined: that
// one's first point there is another one than the others' (docs/roadmap.md, *The life of two sites*).
func (l *life) expectKept(points []group.Point) {
	l.t.Helper()
	now := l.main().clock.Now()
	for _, p := range l.kept {
		age := now.Sub(p.Time) + listedSlack
		interval := intervalAt(l.keeps, age)
		interval = intervalAt(l.keeps, age+interval)
		if age+interval > l.keeps.Window() || interval > 0 && !p.Time.Truncate(interval).After(l.uneven) {
			continue
		}
		if !slices.ContainsFunc(points, func(q group.Point) bool {
			return q.Checkpoint == p.Checkpoint || interval > 0 && q.Checkpoint < p.Checkpoint && p.Time.Truncate(interval).Equal(q.Time.Truncate(interval))
		}) {
			l.fatalf("of the interval of point %d of %v nothing is listed at %v, with %s: %v", p.Checkpoint, p.Time, now, l.keeps, points)
		}
		l.counts["kept points"]++
	}
}

// intervalAt is the one of which a history keeps one point at an age; 0: all of them.
func intervalAt(h journal.History, age time.Duration) time.Duration {
	for i, tier := range h {
		if age <= tier.Age {
			if i == 0 {
				return 0
			}
			return tier.Interval
		}
	}
	return h[len(h)-1].Interval
}
