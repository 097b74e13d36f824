package journal

import (
	"cmp"
	"slices"
	"time"
)

// History ages while checkpoints are made. A time without any counts as one hour
// at most, whatever the clock says: while an application is stopped, a site is off,
// or a replica does not hear of its primary, what is there is what somebody will
// want when it is found out why. A wall clock that is set ahead is such a time as
// well, and takes no history along. The reasons are in
// docs/decisions/0024-history-ages-by-what-is-written.md.
//
// Nothing of this is stored: the checkpoints' times tell.

// countedRest is how much of a time without checkpoints counts.
const countedRest = time.Hour

// rest is a time without a checkpoint that is longer than what counts of it.
type rest struct{ from, to time.Time }

// pointTimes is what a segment's checkpoints say about rests: when the first and the last
// of them were made, and which rests lie between. The zero value has none.
type pointTimes struct {
	first, last time.Time
	rests       []rest
}

// add takes the time of one more checkpoint. Of a segment that was thinned to an
// interval, neighbours may be nearly two of those apart without there having been
// a rest.
func (p *pointTimes) add(at time.Time, interval time.Duration) {
	if p.first.IsZero() {
		p.first, p.last = at, at
		return
	}
	if r, ok := restBetween(p.last, at, interval); ok {
		p.rests = append(p.rests, r)
	}
	p.last = later(p.last, at)
}

// timesOf are those of a whole segment.
func timesOf(checkpoints []Checkpoint, interval time.Duration) (p pointTimes) {
	for i := range checkpoints {
		p.add(checkpoints[i].Time, interval)
	}
	return p
}

// restBetween is the rest between two checkpoints that follow one another, if there is one.
func restBetween(from, to time.Time, interval time.Duration) (r rest, ok bool) {
	if interval > (pinsOnly-countedRest)/2 { // kept for pins alone: nothing is known
		return rest{}, false
	}
	return rest{from, to}, to.Sub(from) > countedRest+2*interval
}

// ageing tells how old history is at a moment.
type ageing struct {
	now   time.Time
	rests []rest // newest first; they do not overlap
}

// ageingLocked is that of the present. mu must be held.
func (s *Store) ageingLocked() ageing {
	segments := make([]*segment, 0, len(s.segments))
	for _, g := range s.segments {
		if !g.times.first.IsZero() {
			segments = append(segments, g)
		}
	}
	slices.SortFunc(segments, func(a, b *segment) int { return cmp.Compare(a.id, b.id) }) // that is the order in which they were made
	var all pointTimes
	thinned := time.Duration(0)
	for _, g := range segments {
		all.add(g.times.first, max(thinned, g.thinned))
		all.rests = append(all.rests, g.times.rests...)
		all.last, thinned = later(all.last, g.times.last), g.thinned
	}
	return all.ageing(s.cfg.Clock.Now())
}

// ageingOf is that of points with the given times, from the oldest to the newest, which
// may have been thinned to an interval.
func ageingOf(points []time.Time, interval time.Duration, now time.Time) ageing {
	var all pointTimes
	for _, at := range points {
		all.add(at, interval)
	}
	return all.ageing(now)
}

// ageing is how what has these points ages. p is not used any more.
func (p *pointTimes) ageing(now time.Time) ageing {
	now = later(now, p.last) // a clock that was set back: what is newest is of now
	if !p.first.IsZero() {
		p.add(now, 0)
	}
	slices.Reverse(p.rests)
	return ageing{now, p.rests}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// age is how long ago something was written that was written at t, without the
// rests but for what counts of them.
func (a *ageing) age(t time.Time) time.Duration {
	age := time.Duration(0)
	end := a.now
	for _, r := range a.rests {
		if !t.Before(r.to) {
			break
		}
		age, end = age+end.Sub(r.to), r.from.Add(countedRest)
		if t.After(end) { // in the rest, behind what counts of it
			return age
		}
	}
	return age + end.Sub(t)
}

// cutoff is the time before which all is older than age.
func (a *ageing) cutoff(age time.Duration) time.Time {
	end := a.now
	for _, r := range a.rests {
		if age < end.Sub(r.to) {
			break
		}
		age, end = age-end.Sub(r.to), r.from.Add(countedRest)
	}
	return end.Add(-age)
}
