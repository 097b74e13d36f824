package engine

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// gate admits changes, except while a barrier holds it shut. The zero value is
// open.
type gate struct {
	mu       sync.Mutex
	inFlight int
	opened   chan struct{} // closed when the gate opens; nil while it is open
	drained  chan struct{} // closed when inFlight reaches 0; nil if nobody waits
}

// enter waits for the gate to be open and counts one change in flight.
func (g *gate) enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		opened := g.opened
		if opened == nil {
			g.inFlight++
			g.mu.Unlock()
			return nil
		}
		g.mu.Unlock()
		select {
		case <-opened:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// join counts a change in flight whether or not the gate is open: the checkpoint of who has
// shut it.
func (g *gate) join() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight++
}

// leave ends what enter, or join, began.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight--
	if g.inFlight == 0 && g.drained != nil {
		close(g.drained)
		g.drained = nil
	}
}

// shut admits nobody from now on. The gate must be open.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = make(chan struct{})
}

// drainSpin is how long drain looks whether changes in flight end: a few times
// what an append takes.
const drainSpin = 100 * time.Microsecond

// drain reports whether no change is in flight, or none any more after a
// moment. It does not sleep: to be woken takes longer than an append, and on a
// busy machine, where the processor is given to others meanwhile, thousands of
// times as long.
func (g *gate) drain() bool {
	for began := time.Now(); ; runtime.Gosched() {
		g.mu.Lock()
		idle := g.inFlight == 0
		g.mu.Unlock()
		if idle || time.Since(began) > drainSpin {
			return idle
		}
	}
}

// idle returns a channel that is closed when no change is in flight.
func (g *gate) idle() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.drained == nil {
		g.drained = make(chan struct{})
	}
	drained := g.drained
	if g.inFlight == 0 {
		close(drained)
		g.drained = nil
	}
	return drained
}

// open admits everyone again.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.opened)
	g.opened = nil
}
