package clock

import (
	"slices"
	"sync"
	"time"
)

// Manual is a clock for tests and simulations. Its time changes only in
// Advance. All methods may be called concurrently; a simulation that shall
// repeat exactly has one goroutine advance it, and waits with WaitForTimers
// between two steps.
type Manual struct {
	mu      sync.Mutex // guards the fields below
	now     time.Time
	pending []*manualTimer // ordered by deadline, equal ones by age
	changed *sync.Cond     // signalled when a timer is added
}

var _ Clock = (*Manual)(nil)

// NewManual returns a clock that stands at now.
func NewManual(now time.Time) *Manual {
	m := &Manual{now: now}
	m.changed = sync.NewCond(&m.mu)
	return m
}

// Now returns the time that the clock stands at.
func (m *Manual) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// NewTimer makes a timer that fires when Advance reaches it. If d is not
// positive it has fired on return.
func (m *Manual) NewTimer(d time.Duration) Timer {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := &manualTimer{clock: m, deadline: m.now.Add(d), fired: make(chan time.Time, 1)}
	if d <= 0 {
		t.fired <- m.now
		return t
	}
	i, _ := slices.BinarySearchFunc(m.pending, t, func(a, b *manualTimer) int {
		if a.deadline.After(b.deadline) {
			return 1
		}
		return -1 // an equal one that is older comes first
	})
	m.pending = slices.Insert(m.pending, i, t)
	m.changed.Broadcast()
	return t
}

// Advance moves the clock by d, which must not be negative, and fires every
// timer that is due by then, in the order of their deadlines, equal ones in
// the order in which they were made. Each receives its own deadline. It is one
// step to everybody else: who is woken finds the clock at the end of it, and
// does not make a timer before. Code that ticks is therefore driven in steps
// of Next, with WaitForTimers after each.
func (m *Manual) Advance(d time.Duration) {
	if d < 0 {
		panic("clock: Advance by a negative duration")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	end := m.now.Add(d)
	for len(m.pending) > 0 && !m.pending[0].deadline.After(end) {
		t := m.pending[0]
		m.pending = slices.Delete(m.pending, 0, 1)
		m.now = t.deadline
		t.fired <- m.now
	}
	m.now = end
}

// WaitForTimers returns when at least n timers are pending, which is when the
// code under test has come to wait. It waits for ever if that never happens:
// the test's own time limit ends it.
func (m *Manual) WaitForTimers(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.pending) < n {
		m.changed.Wait()
	}
}

// Next returns how long it is until the first pending timer fires; false if
// none is pending. A simulation advances by that.
func (m *Manual) Next() (time.Duration, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.pending) == 0 {
		return 0, false
	}
	return m.pending[0].deadline.Sub(m.now), true
}

type manualTimer struct {
	clock    *Manual
	deadline time.Time
	fired    chan time.Time // has room for the one value ever sent
}

func (t *manualTimer) C() <-chan time.Time { return t.fired }

// Stop behaves as that of time.Timer since Go 1.23: a value that nobody has
// received is taken back, and then the timer counts as stopped in time.
func (t *manualTimer) Stop() bool {
	m := t.clock
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.Index(m.pending, t); i >= 0 {
		m.pending = slices.Delete(m.pending, i, i+1)
		return true
	}
	select {
	case <-t.fired:
		return true
	default:
		return false
	}
}
