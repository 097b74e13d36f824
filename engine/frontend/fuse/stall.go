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
	// reading counts the goroutines that are reading requests or waiting for
	// some, and so will take the next.
	reading atomic.Int64
	// served counts requests.
	served atomic.Uint64

	armed atomic.Bool
	wake  chan struct{} // capacity 1
	// add brings one more reader, if there can be one. Constant.
	add func()
}

// prepare comes before any other use.
func (w *stallWatch) prepare(add func()) { w.wake, w.add = make(chan struct{}, 1), add }

// busy is called before a device call that may turn out slow.
func (w *stallWatch) busy() {
	if w.reading.Load() > 0 || w.armed.Load() {
		return
	}
	if w.armed.CompareAndSwap(false, true) {
		w.wake <- struct{}{} // room for one, and armed says it is not there
	}
}

// watchStalls adds readers while none of those there are gets anywhere, until
// done is closed.
func (w *stallWatch) watchStalls(done <-chan struct{}) {
	timer := time.NewTimer(stallInterval)
	defer timer.Stop()
	for {
		select {
		case <-w.wake:
		case <-done:
			return
		}
		for w.armed.Load() {
			if !w.relieve(timer, done) {
				return
			}
			w.armed.Store(false)
			// A reader that became busy just before saw the watch armed and
			// relied on it.
			if w.reading.Load() == 0 {
				w.armed.CompareAndSwap(false, true)
			}
		}
	}
}

// relieve adds a reader each time that none has finished a request for an
// interval, until there is one that waits for requests. Surplus readers retire by
// themselves (see surplus). It returns false at the end of the session.
func (w *stallWatch) relieve(timer *time.Timer, done <-chan struct{}) bool {
	for seen := w.served.Load(); w.reading.Load() == 0; {
		timer.Reset(stallInterval)
		select {
		case <-timer.C:
		case <-done:
			return false
		}
		if now := w.served.Load(); now != seen {
			seen = now
			continue
		}
		if w.reading.Load() > 0 {
			break
		}
		w.add()
	}
	return true
}
