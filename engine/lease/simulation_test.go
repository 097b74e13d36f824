package lease

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"
)

// sim is several contenders, a server and the network between them, in one
// goroutine. Real time is its own; each contender's clock has another speed.
type sim struct {
	t      *testing.T
	seed   uint64
	random *rand.Rand
	now    time.Duration
	queue  events
	order  int
	calm   bool // nothing fails any more
	record Record
	writes int
	nodes  []*node
	holds  int // how often somebody became valid
}

type node struct {
	machine machine
	speed   float64
	offset  time.Duration
	paused  time.Duration // until
	cut     time.Duration // until: nothing gets through
	request int           // the one whose answer is waited for
}

// clock is the contender's time.
func (n *node) clock(now time.Duration) time.Duration {
	return n.offset + time.Duration(float64(now)*n.speed)
}

type event struct {
	at    time.Duration
	order int
	run   func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(e any)   { *q = append(*q, e.(event)) }
func (q *events) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

func (s *sim) after(d time.Duration, run func()) {
	s.order++
	heap.Push(&s.queue, event{s.now + d, s.order, run})
}

// on runs something at a contender, later if it is paused. Unless it has come
// to nothing, the contender goes on from there.
func (s *sim) on(n *node, d time.Duration, run func() bool) {
	s.after(d, func() {
		if s.now < n.paused {
			s.on(n, n.paused-s.now, run)
			return
		}
		if run() {
			s.check()
			s.step(n)
		}
	})
}

// step has a contender do what it wants next.
func (s *sim) step(n *node) {
	now := n.clock(s.now)
	next := n.machine.next(now)
	switch next.kind {
	case end: // another process takes its place
		s.on(n, s.upTo(time.Minute), func() bool {
			n.machine = machine{id: n.machine.id + "'"}
			return true
		})
	case wait:
		s.on(n, time.Duration(float64(next.at-now)/n.speed)+1, func() bool { return true })
	case read:
		s.send(n, func() (Record, bool) { return s.record, true }, n.machine.wasRead)
	case write:
		id := n.machine.id
		s.send(n, func() (Record, bool) {
			if s.record.Version != next.from {
				return Record{}, false
			}
			s.writes++
			s.record = Record{Holder: id, Version: strconv.Itoa(s.writes)}
			return s.record, true
		}, func(at time.Duration, r Record) { n.machine.wasWritten(now, at, r) })
	}
}

// send carries a request out, late or not at all, and its answer back; the
// contender gives up after RequestTimeout of its clock.
func (s *sim) send(n *node, serve func() (Record, bool), answered func(time.Duration, Record)) {
	n.request++
	mine := n.request
	s.on(n, time.Duration(float64(RequestTimeout)/n.speed), func() bool {
		if n.request != mine {
			return false
		}
		n.request++
		n.machine.failed(n.clock(s.now))
		return true
	})
	s.deliver(n, func() {
		r, ok := serve()
		s.deliver(n, func() {
			s.on(n, 0, func() bool {
				if n.request != mine {
					return false // too late
				}
				n.request++
				if ok {
					answered(n.clock(s.now), r)
				} else {
					n.machine.wasOvertaken(n.clock(s.now))
				}
				return true
			})
		})
	})
}

// deliver is one way through the network.
func (s *sim) deliver(n *node, arrive func()) {
	switch {
	case s.calm:
		s.after(time.Millisecond, arrive)
	case s.now < n.cut || s.random.IntN(10) == 0:
	case s.random.IntN(4) == 0:
		s.after(s.upTo(time.Minute), arrive) // held up somewhere, long after the client gave up
	default:
		s.after(s.upTo(3*time.Second), arrive)
	}
}

func (s *sim) upTo(d time.Duration) time.Duration {
	return time.Duration(s.random.Int64N(int64(d)))
}

// disturb pauses and cuts off contenders, again and again.
func (s *sim) disturb() {
	if s.calm {
		return
	}
	n := s.nodes[s.random.IntN(len(s.nodes))]
	switch s.random.IntN(3) {
	case 0:
		n.paused = s.now + s.upTo(2*time.Minute)
	case 1:
		n.cut = s.now + s.upTo(2*time.Minute)
	}
	s.after(s.upTo(40*time.Second), s.disturb)
}

// check is what it is all for. Nobody becomes valid but by an event of its own,
// so that it is enough to look after each; a contender that is paused counts,
// for it does not know.
func (s *sim) check() {
	valid := 0
	for _, n := range s.nodes {
		if n.machine.valid(n.clock(s.now)) {
			valid++
		}
	}
	if valid > 1 {
		s.t.Fatalf("seed %d: at %v %d contenders are valid", s.seed, s.now, valid)
	}
	s.holds += valid
}

func (s *sim) run(until time.Duration) {
	for len(s.queue) > 0 && s.queue[0].at < until {
		e := heap.Pop(&s.queue).(event)
		s.now = e.at
		e.run()
	}
	s.now = until
}

func newSim(t *testing.T, seed uint64) *sim {
	s := &sim{t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 0))}
	for i := range 3 {
		n := &node{
			machine: machine{id: fmt.Sprint(i)},
			speed:   0.9 + 0.2*s.random.Float64(),
			offset:  s.upTo(1000 * time.Hour),
		}
		s.nodes = append(s.nodes, n)
		s.on(n, s.upTo(time.Minute), func() bool { return true })
	}
	s.disturb()
	return s
}

// Contenders that are paused, cut off, answered late or not at all, with clocks
// that are 10 % fast or slow, are never valid two at a time; and when all is
// well again one of them is.
func TestNeverTwoHolders(t *testing.T) {
	seeds := 3000
	if testing.Short() {
		seeds = 300
	}
	holds := 0
	for seed := range seeds {
		s := newSim(t, uint64(seed))
		s.run(time.Hour)
		s.calm = true
		s.run(time.Hour + 5*time.Minute)
		valid := 0
		for _, n := range s.nodes {
			if n.machine.valid(n.clock(s.now)) {
				valid++
			}
		}
		if valid != 1 {
			t.Fatalf("seed %d: %d holders five minutes after all was well, want one", seed, valid)
		}
		holds += s.holds
	}
	if holds == 0 {
		t.Error("nobody ever held the lease")
	}
}
