package fuse

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ringReader takes the requests of some CPUs' queues through one io_uring. One
// goroutine at a time has its turn with the ring, in one system call hands over the
// replies that are ready and waits for requests, and then serves those where it
// is, small writes together. What may wait for a disk is served by goroutines of
// its own, whose replies it fetches when it is woken for them.
//
// The kernel puts a request into an entry in the thread that last submitted the
// entry's command, whatever that thread is at, unless it waits for something that
// cannot be interrupted. A wait of the Go runtime can. So each reader has a thread,
// on which nothing else runs as long as the session lasts: a thread that went on to
// wait for a request on this very device would wait for itself, and even an abort
// would not end that.
type ringReader struct {
	session *server
	ring    *ring
	entries []*ringEntry // constant
	// bell is an eventfd that wakes the reader which waits in the kernel.
	bell   int
	stalls stallWatch
	active atomic.Int64  // readers that are not parked
	recall chan struct{} // takes a parked reader back into use

	turn sync.Mutex
	// Guarded by turn:
	atKernel int  // entries whose command has not completed
	polled   bool // the bell is watched

	// serving counts the entries with a request that is not answered.
	serving atomic.Int64
	asleep  atomic.Bool // who has the turn may be waiting: ring the bell
	broken  atomic.Bool // nothing can be handed over any more

	mu       sync.Mutex
	finished []*ringEntry // with replies to hand over; capacity len(entries)
}

// bellNumber is the bell's among the numbers of entries.
const bellNumber = math.MaxUint64

// newRingReaders shares the queues of the connection of s among readers.
func newRingReaders(s *server, readers, payloadBytes int) (all []*ringReader, err error) {
	queues, err := possibleCPUs()
	if err != nil {
		return nil, err
	}
	perQueue := entriesPerQueue(queues, payloadBytes)
	for i := range min(readers, queues) {
		var own []uint16
		for q := i; q < queues; q += readers {
			own = append(own, uint16(q))
		}
		r, err := newRingReader(s, own, perQueue, payloadBytes)
		if err != nil {
			for _, r := range all {
				r.free()
			}
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

func newRingReader(s *server, queues []uint16, perQueue, payloadBytes int) (*ringReader, error) {
	count := len(queues) * perQueue
	r := &ringReader{session: s, bell: -1, recall: make(chan struct{}), finished: make([]*ringEntry, 0, count)}
	r.stalls.prepare(r.addReader)
	var err error
	if r.ring, err = setUpRing(uint32(count)+1, ringSetupWide|ringSetupCoop); err != nil {
		return nil, err
	}
	if r.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		r.free()
		return nil, os.NewSyscallError("eventfd", err)
	}
	for i := range count {
		e, err := newRingEntry(i, queues[i%len(queues)], payloadBytes)
		if err != nil {
			r.free()
			return nil, err
		}
		r.entries = append(r.entries, e)
	}
	return r, nil
}

// memory is the size of all entries, and why some of it could not be locked.
func (r *ringReader) memory() (bytes int64, unlocked error) {
	for _, e := range r.entries {
		bytes += int64(len(e.mem))
		if unlocked == nil {
			unlocked = e.unlocked
		}
	}
	return bytes, unlocked
}

// start begins to read.
func (r *ringReader) start() {
	s := r.session
	r.active.Add(1)
	s.wg.Go(func() { r.read(true) })
	s.wg.Go(func() { r.stalls.watchStalls(s.done) })
}

// addReader brings one more reader, while those there are wait for the device.
func (r *ringReader) addReader() {
	if r.active.Load() > int64(len(r.entries)) { // all but one hold a request
		return
	}
	r.active.Add(1)
	select {
	case r.recall <- struct{}{}:
	default:
		r.session.wg.Go(func() { r.read(false) })
	}
}

// free closes the ring, which makes the kernel cancel the commands that have not
// completed, at some time.
func (r *ringReader) free() {
	r.ring.free()
	if r.bell >= 0 {
		_ = unix.Close(r.bell)
	}
	for _, e := range r.entries {
		if r.atKernel > 0 {
			e.vacate()
		} else {
			e.free()
		}
	}
}

// read serves requests until the session ends.
func (r *ringReader) read(first bool) {
	// Never unlocked: the thread ends with the goroutine, and the kernel then
	// cancels the commands that it has submitted.
	runtime.LockOSThread()
	b := &ringBatch{reader: r}
	if first {
		if err := r.register(); err != nil {
			r.fail(err)
			return
		}
	}
	for {
		if r.surplus() && !r.park() {
			return
		}
		more, err := r.take(b)
		if err != nil {
			r.session.end(err)
		}
		if !more {
			return
		}
		if err := r.serve(b); err != nil {
			r.fail(err)
			return
		}
		r.stalls.served.Add(uint64(len(b.entries)))
	}
}

// fail ends the session for a reason that leaves requests unanswered.
func (r *ringReader) fail(err error) {
	r.broken.Store(true)
	r.session.end(err)
}

// surplus takes the caller out of the active readers if a stall has brought more
// than one and another one will take the next request.
func (r *ringReader) surplus() bool {
	for {
		n := r.active.Load()
		if n <= 1 || r.stalls.reading.Load() == 0 {
			return false
		}
		if r.active.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// park waits until the caller is needed again; false means the end of the session.
func (r *ringReader) park() bool {
	select {
	case <-r.recall:
		return true
	case <-r.session.done:
		return false
	}
}

// register gives the kernel all entries. It sends requests this way as soon as it
// has one entry for each queue, also of other readers; until then they wait.
func (r *ringReader) register() error {
	r.turn.Lock()
	defer r.turn.Unlock()
	for i, e := range r.entries {
		e.pushCommand(r.ring, i, r.session.fd, ringRegister)
	}
	r.atKernel = len(r.entries)
	return r.ring.submit(len(r.entries), 0)
}

// take waits for its turn, hands the replies over that are ready, and waits until
// there are requests, which it puts into b. more is false when the session has
// ended and no request is in service.
func (r *ringReader) take(b *ringBatch) (more bool, err error) {
	r.turn.Lock()
	defer r.turn.Unlock()
	r.stalls.reading.Add(1)
	defer r.stalls.reading.Add(-1)
	b.entries = b.entries[:0]
	for {
		n := r.pushFinished()
		if r.ended() {
			return false, r.ring.submit(n, 0)
		}
		if err := r.ring.submit(n, r.patience()); err != nil {
			r.broken.Store(true)
			return false, err
		}
		r.asleep.Store(false)
		if err := r.collect(b); err != nil {
			return true, err // b may hold requests
		}
		if len(b.entries) > 0 {
			return true, nil
		}
	}
}

// ended reports whether the session has ended and nothing is in service any more.
// If the file system is gone, the kernel also completes what it has not, and
// touches the entries no more afterwards.
func (r *ringReader) ended() bool {
	switch s := r.session; {
	case r.broken.Load():
		return true
	case !s.ending.Load() || r.serving.Load() > 0:
		return false
	default:
		return r.atKernel == 0 || !errors.Is(s.failure, ErrUnmounted)
	}
}

// pushFinished pushes the replies that are ready, and returns how many places of
// the ring it has filled.
func (r *ringReader) pushFinished() (places int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.finished {
		e.pushCommand(r.ring, places, r.session.fd, ringCommitAndFetch)
		places++
	}
	r.atKernel += places
	r.serving.Add(-int64(places))
	r.finished = r.finished[:0]
	if !r.polled {
		r.polled = true
		r.ring.push(places, submission{op: ringOpPoll, fd: int32(r.bell), length: ringPollMulti, rwFlags: unix.EPOLLIN, user: bellNumber})
		places++
	}
	return places
}

// patience is for how many completions to wait: none if another reply is ready
// already. From now on the bell rings for one.
func (r *ringReader) patience() int {
	r.asleep.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.finished) > 0 {
		return 0
	}
	return 1
}

// collect puts the entries that the kernel has put requests into into b. Once the
// session ends, requests that come are left unanswered: the kernel gives a new one
// for each reply.
func (r *ringReader) collect(b *ringBatch) error {
	var failure error
	for {
		c, ok := r.ring.pop()
		switch {
		case !ok:
			return failure
		case c.user == bellNumber:
			r.polled = c.flags&ringMoreFollows != 0
			continue
		}
		r.atKernel--
		switch {
		case c.res < 0:
			if err := commandError(unix.Errno(-c.res)); failure == nil {
				failure = err
			}
		case !r.session.ending.Load():
			r.serving.Add(1)
			b.entries = append(b.entries, r.entries[c.user])
		}
	}
}

// commandError judges why a command has failed.
func commandError(err unix.Errno) error {
	if gone(err) || err == unix.ENOTCONN || err == unix.ECANCELED {
		return ErrUnmounted
	}
	return fmt.Errorf("exchange over io_uring: %w", os.NewSyscallError("FUSE_IO_URING_CMD", err))
}

// finish hands the reply to the request in e over, when whoever has the turn gets
// to it.
func (r *ringReader) finish(e *ringEntry, msg []byte) {
	e.fold(msg)
	r.mu.Lock()
	r.finished = append(r.finished, e)
	r.mu.Unlock()
	if r.asleep.CompareAndSwap(true, false) {
		signal(r.bell)
	}
}

// flush hands over what is ready, unless another reader has its turn, which then
// does.
func (r *ringReader) flush() error {
	if !r.turn.TryLock() {
		return nil
	}
	defer r.turn.Unlock()
	return r.ring.submit(r.pushFinished(), 0)
}

// ringBatch is what a reader has taken in one turn.
type ringBatch struct {
	reader  *ringReader
	entries []*ringEntry
	writes  writeBatch
}

// queue and send make a batch the place for the replies to its writes.
func (b *ringBatch) queue(place int, msg []byte) { b.reader.finish(b.entries[place], msg) }

func (b *ringBatch) send() error { return b.reader.flush() }

// serve answers the requests of b, or sees to it that others do. As in
// server.serve, those that may have to wait go elsewhere first. After an error
// some are unanswered.
func (r *ringReader) serve(b *ringBatch) error {
	b.writes.reset()
	for i, e := range b.entries {
		if err := r.serveQuick(b, i, e); err != nil {
			return err
		}
	}
	if len(b.writes.writes) == 0 {
		return nil
	}
	if len(b.writes.writes) < len(b.entries) {
		// What is done already must not wait for storing.
		if err := r.flush(); err != nil {
			return err
		}
	}
	r.stalls.busy()
	return r.session.storeWrites(&b.writes, b)
}

// serveQuick answers the request in e, unless it is a write, which is added to
// those of b, or may wait.
func (r *ringReader) serveQuick(b *ringBatch, place int, e *ringEntry) error {
	msg, err := e.unfold()
	if err != nil {
		return err
	}
	h, body, err := decodeRequest(msg)
	if err != nil {
		return err
	}
	if h.op == opWrite {
		refusal, err := r.session.addWrite(&b.writes, place, &e.buffer, h, body)
		if refusal != nil {
			r.finish(e, refusal)
		}
		return err
	}
	t, err := r.session.handle(&e.buffer, h, body)
	switch {
	case err != nil:
		return err
	case t.wait != nil:
		r.spawn(e, t)
	case t.reply == nil: // such requests come over /dev/fuse
		r.finish(e, e.reply(h.unique, 0, unix.ENOSYS))
	default:
		r.finish(e, t.reply)
	}
	return nil
}

// spawn serves t, which came in e, in a goroutine of its own.
func (r *ringReader) spawn(e *ringEntry, t task) {
	r.session.wg.Go(func() { r.finish(e, t.wait(&e.buffer)) })
}
