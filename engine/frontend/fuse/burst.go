package fuse

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// maxBurst is how many requests a reader takes at once. Each is read into a
// receiver's buffer, because only the kernel knows how long the next one is.
const maxBurst = 8

// burst is what the reader that holds a receiver has read and not answered.
type burst struct {
	slots   [maxBurst]*receiver // the first is the one that the burst belongs to, nil where there is none
	bytes   [maxBurst]int       // of the request in each slot, 0 where there is none
	want    int                 // how many requests to ask for next, at least 1
	single  bool                // the last exchange waited, and then found one request
	replies [][]byte            // in the slots, not sent yet; capacity maxBurst
	ops     []operation         // capacity 2*maxBurst
	writes  writeBatch
	server  *server // since the first exchange
}

// reply queues a reply that lies in one of the slots. It is sent before the slot
// is read into again.
func (b *burst) reply(msg []byte) {
	if msg != nil {
		b.replies = append(b.replies, msg)
	}
}

// exchange sends the queued replies of r's burst and reads the requests that
// wait in the kernel, up to as many as the last time were worth asking for. It
// returns how many it read; 0 means that none waits.
//
// With a ring all this is one system call, which is what a small request costs
// most (docs/performance.md).
func (s *server) exchange(r *receiver) (got int, err error) {
	b := &r.burst
	b.slots[0], b.server = r, s
	held := b.closeGaps()
	for ; held < b.want; held++ {
		if b.slots[held] = s.buffers.takeSpare(); b.slots[held] == nil {
			break
		}
	}
	clear(b.bytes[:])
	got, err = s.fill(r, min(held, b.want))
	s.releaseSpares(b)
	return got, err
}

// expect decides from what an exchange has got how the next one is made. Where
// one request was waited for, most likely none waits behind it, and reads that
// find nothing cost more in the ring, where they have to be cancelled, than a
// plain one.
func (b *burst) expect(got int, waited bool) {
	b.single = waited && got == 1
	b.want = min(got+1, maxBurst)
	if b.single {
		b.want = 1
	}
}

// closeGaps moves the slots that are held to the front and returns how many
// they are.
func (b *burst) closeGaps() (held int) {
	for i, slot := range b.slots {
		if slot != nil {
			b.slots[i], b.slots[held] = nil, slot
			held++
		}
	}
	return held
}

// releaseSpares gives back the spare slots without a request. No reply may be
// queued: it would lie in a buffer that others read into.
func (s *server) releaseSpares(b *burst) {
	for i := 1; i < maxBurst; i++ {
		if b.slots[i] != nil && b.bytes[i] == 0 {
			s.buffers.putReceiver(b.slots[i])
			b.slots[i] = nil
		}
	}
}

// finish sends what is queued without reading and gives back all spare slots.
func (s *server) finish(b *burst) error {
	if err := s.flushReplies(b); err != nil {
		return err
	}
	clear(b.bytes[:])
	s.releaseSpares(b)
	return nil
}

// fill is exchange with the first slots of the burst to read into.
func (s *server) fill(r *receiver, slots int) (got int, err error) {
	b := &r.burst
	if r.ring == nil || b.single || len(b.replies)+slots == 1 {
		if err := s.flushReplies(b); err != nil {
			return 0, err
		}
		for got < slots {
			n, err := s.poll(&b.slots[got].buffer)
			if err != nil || n == 0 {
				return got, err
			}
			b.bytes[got] = n
			got++
		}
		return got, nil
	}
	b.ops = b.ops[:0]
	for _, msg := range b.replies {
		b.ops = append(b.ops, operation{write: true, mem: msg})
	}
	for _, slot := range b.slots[:slots] {
		b.ops = append(b.ops, operation{mem: slot.request()})
	}
	if err := r.ring.do(s.fd, b.ops); err != nil {
		return 0, err
	}
	reads := b.ops[len(b.replies):]
	for i := range b.replies {
		if err := replyError(b.ops[i].err); err != nil {
			return 0, err
		}
	}
	b.replies = b.replies[:0]
	return b.collect(reads)
}

// collect notes which slots the reads have filled. They need not be the first
// ones: a request can come after one read has found none and before the next.
func (b *burst) collect(reads []operation) (got int, err error) {
	for i := range reads {
		n, failure := reads[i].n, reads[i].err
		switch {
		case failure == nil && n > 0:
			b.bytes[i] = n
			got++
		case failure == nil, gone(failure):
			err = ErrUnmounted
		case errors.Is(failure, unix.ECANCELED), errors.Is(failure, unix.EINTR), errors.Is(failure, unix.ENOENT), errors.Is(failure, unix.EAGAIN):
			// ENOENT: the request was interrupted while it was being copied. EAGAIN: there
			// was none, and the kernel had no memory to have the read wait for one, so that
			// it was tried elsewhere (io_arm_poll_handler of Linux io_uring/poll.c).
		default:
			err = fmt.Errorf("read request: %w", os.NewSyscallError("read", failure))
		}
	}
	return got, err
}

// flushReplies sends the queued replies without reading.
func (s *server) flushReplies(b *burst) error {
	for _, msg := range b.replies {
		if err := s.write(msg); err != nil {
			return err
		}
	}
	b.replies = b.replies[:0]
	return nil
}

// serve answers the requests of r's burst. Its replies may still be queued on
// return. It returns kept false if r was passed on to another goroutine, and an
// error only if the session has to end.
//
// Requests that are in the kernel at the same time have no order among them. So
// those that may have to wait for the device go elsewhere first, then the small
// writes are stored together.
func (s *server) serve(r *receiver, got int) (kept bool, err error) {
	b := &r.burst
	defer s.served.Add(uint64(got))
	last, err := s.serveQuick(b)
	if err != nil || last.wait == nil {
		return true, err // the spare slots hold replies, the next exchange frees them
	}
	if err := s.finish(b); err != nil {
		return true, err
	}
	return s.stepAside(r, last)
}

// serveQuick answers the requests of a burst but for the last one that may
// wait, which it returns unless it found a buffer for that one too.
func (s *server) serveQuick(b *burst) (last task, err error) {
	writes := &b.writes
	writes.reset()
	for i, n := range b.bytes {
		if n == 0 {
			continue
		}
		slot := &b.slots[i].buffer
		h, body, err := decodeRequest(slot.request()[:n])
		if err != nil {
			return task{}, err
		}
		if h.op == opWrite {
			refusal, err := s.addWrite(writes, i, slot, h, body)
			if err != nil {
				return task{}, err
			}
			b.reply(refusal)
			continue
		}
		t, err := s.handle(slot, h, body)
		if err != nil {
			return task{}, err
		}
		if t.wait == nil {
			b.reply(t.reply)
			continue
		}
		if last.wait != nil {
			s.spawn(last, s.leaseFor(b, i, last))
		}
		last = t
	}
	if len(writes.writes) == 0 {
		return last, nil
	}
	if last.wait != nil {
		if l, ok := s.buffers.take(last.dataBytes); ok {
			s.spawn(last, l)
			last = task{}
		}
	}
	// Storing is expected to be quick; if it is not, what is done already must
	// not wait for it.
	if err := s.flushReplies(b); err != nil {
		return task{}, err
	}
	s.busy()
	return last, s.storeWrites(writes, b)
}

// queue and send make a burst the place for the replies to its writes.
func (b *burst) queue(_ int, msg []byte) { b.reply(msg) }

func (b *burst) send() error { return b.server.flushReplies(b) }

// leaseFor finds a buffer for t, which waits. The slot of the request that was
// decoded last, which waits too and so has no reply in it, can always be had:
// it is not the burst's first.
func (s *server) leaseFor(b *burst, decoded int, t task) lease {
	if t.dataBytes <= smallBytes {
		if l, ok := s.buffers.take(t.dataBytes); ok {
			return l
		}
	}
	r := b.slots[decoded]
	b.slots[decoded], b.bytes[decoded] = nil, 0
	return lease{buffer: &r.buffer, receiver: r}
}
