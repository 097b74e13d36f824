package journal

import (
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

// busyTime is a time in which checkpoints were made without a rest.
type busyTime struct {
	from, to time.Time
	interval time.Duration // that to which the segment was thinned
}

// pointTimes are the times of checkpoints, in the order in which these were made.
type pointTimes []busyTime

// add takes the time of one more checkpoint. Of a segment that was thinned to an
// interval, neighbours may be nearly two of those apart without there having been
// a rest.
func (p *pointTimes) add(at time.Time, interval time.Duration) {
	if n := len(*p); n > 0 {
		s := &(*p)[n-1]
		if _, rested := restBetween(s.to, at, interval); !rested && !at.Before(s.from) {
			s.to = later(s.to, at)
			return
		}
	}
	*p = append(*p, busyTime{at, at, interval})
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
	var all pointTimes
	for _, g := range s.segments {
		all = append(all, g.times...)
	}
	newest := time.Time{}
	for c := range s.allNewestFirstLocked() {
		newest = c.Time
		break
	}
	return all.ageing(newest, s.cfg.Clock.Now())
}

// ageingOf is that of points with the given times, from the oldest to the newest, which
// have been thinned to the intervals of their ages.
func ageingOf(points []time.Time, intervalAt func(age time.Duration) time.Duration, now time.Time) ageing {
	a := ageing{now: now}
	if n := len(points); n > 0 {
		a.now = later(now, points[n-1])
	}
	next, age, interval := a.now, time.Duration(0), time.Duration(0) // the newest point is never thinned
	for _, at := range slices.Backward(points) {
		gap := next.Sub(at)
		if r, rested := restBetween(at, next, interval); rested {
			a.rests = append(a.rests, r)
			gap = countedRest
		}
		next, age = at, age+gap
		interval = intervalAt(age + countedRest) // of the one before, if a rest lies between
	}
	return a
}

// ageing is how what has these points, in any order, ages: newest is the time of the newest one
// on the active path. A clock that was set back has that of now. Others, on timelines
// that were left, may be of times that are still to come: they tell nothing of what was before.
func (p pointTimes) ageing(newest, now time.Time) ageing {
	a := ageing{now: later(now, newest)}
	slices.SortFunc(p, func(a, b busyTime) int { return a.from.Compare(b.from) })
	var end busyTime // the one that reaches furthest so far
	for i, s := range p {
		if s.from.After(a.now) {
			break
		}
		if i > 0 {
			a.add(end.to, s.from, max(end.interval, s.interval))
		}
		if i == 0 || s.to.After(end.to) {
			end = s
		}
	}
	if !end.to.IsZero() {
		a.add(end.to, a.now, 0)
	}
	slices.Reverse(a.rests)
	return a
}

func (a *ageing) add(from, to time.Time, interval time.Duration) {
	if r, ok := restBetween(from, to, interval); ok {
		a.rests = append(a.rests, r)
	}
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
