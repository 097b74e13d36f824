package fuse

import (
	"sync/atomic"
	"time"
)

// stallInterval is how long every reader may sit in a device call that was
// expected to be quick before another reader is added: long against a write
// that goes to memory, short against a checkpoint barrier.
const stallInterval = 2 * time.Millisecond

// stallWatch notices when all readers are held up by the device, as during a
// checkpoint barrier or while the journal is full. Writes are served where
// they were read, because passing each one on would double the cost of the
// usual, quick one; the price is that nobody knows beforehand which write will
// be slow. The watcher sleeps unless the readers are all busy.
type stallWatch struct {
	armed atomic.Bool
	wake  chan struct{} // capacity 1
}

// busy is called before a device call that may turn out slow.
func (s *server) busy() {
	if s.reading.Load() > 0 || s.stalls.armed.Load() {
		return
	}
	if s.stalls.armed.CompareAndSwap(false, true) {
		s.stalls.wake <- struct{}{} // room for one, and armed says it is not there
	}
}

// watchStalls adds readers while none of those there are gets anywhere.
func (s *server) watchStalls() {
	timer := time.NewTimer(stallInterval)
	defer timer.Stop()
	for {
		select {
		case <-s.stalls.wake:
		case <-s.done:
			return
		}
		for s.stalls.armed.Load() {
			if !s.relieve(timer) {
				return
			}
			s.stalls.armed.Store(false)
			// A reader that became busy just before saw the watch armed and
			// relied on it.
			if s.reading.Load() == 0 {
				s.stalls.armed.CompareAndSwap(false, true)
			}
		}
	}
}

// relieve adds a reader, within Options.Receivers, each time that none has
// finished a request for an interval, until there is one that waits for
// requests. Surplus readers retire by themselves (see surplus). It returns false
// at the end of the session.
func (s *server) relieve(timer *time.Timer) bool {
	for seen := s.served.Load(); s.reading.Load() == 0; {
		timer.Reset(stallInterval)
		select {
		case <-timer.C:
		case <-s.done:
			return false
		}
		if now := s.served.Load(); now != seen {
			seen = now
			continue
		}
		if s.reading.Load() > 0 {
			break
		}
		if r := s.buffers.takeReceiver(); r != nil {
			s.active.Add(1)
			s.passOn(r)
		}
	}
	return true
}
