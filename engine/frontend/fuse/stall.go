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

// watchStalls adds readers, within Options.Receivers, while none of those there
// are gets anywhere. Surplus readers retire by themselves (see surplus).
func (s *server) watchStalls() {
	timer := time.NewTimer(stallInterval)
	defer timer.Stop()
	for {
		select {
		case <-s.stalls.wake:
		case <-s.done:
			return
		}
		for seen := s.served.Load(); ; {
			timer.Reset(stallInterval)
			select {
			case <-timer.C:
			case <-s.done:
				return
			}
			if s.reading.Load() > 0 {
				break
			}
			if now := s.served.Load(); now != seen {
				seen = now
				continue
			}
			if r := s.buffers.takeReceiver(); r != nil {
				s.active.Add(1)
				s.passOn(r)
			}
		}
		s.stalls.armed.Store(false)
	}
}
