package fuse

import (
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Every buffer starts with one page of headroom. A request is read so that its
// data, if it is a WRITE, begins on the page behind it; a reply is written so
// that its header ends there. Data is thus always page aligned, as direct I/O
// of a device below wants it, and header and data are one piece for one system
// call in either direction.
const (
	headroomBytes = 4096
	// requestAt is where a request is read to: a WRITE has a header and a
	// writeIn in front of its data.
	requestAt = headroomBytes - inHeaderBytes - writeInBytes
	// replyAt is where a reply's header goes.
	replyAt = headroomBytes - outHeaderBytes
)

// smallBytes is the data capacity of the smaller buffers: most file system
// reads fit.
const smallBytes = 64 << 10

// buffer is memory that a request is served in. It has one user at a time.
type buffer struct {
	mem []byte // headroom, then data
	// unlocked is why the memory could not be locked, nil if it is.
	unlocked error
}

// newBuffer maps, populates and locks a buffer for dataBytes of data. The Go
// heap would not do: a page that is not there when the kernel copies into it
// has to be faulted in, which fails in a process that is being killed, and
// the request would end in EIO instead of waiting for the next process. A
// lock that the memory limit does not allow is done without, which Serve
// reports: populated pages then only leave under memory pressure.
func newBuffer(dataBytes int) (buffer, error) {
	mem, err := unix.Mmap(-1, 0, headroomBytes+dataBytes,
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return buffer{}, fmt.Errorf("map request buffer: %w", os.NewSyscallError("mmap", err))
	}
	return buffer{mem: mem, unlocked: os.NewSyscallError("mlock", unix.Mlock(mem))}, nil
}

func (b *buffer) free() {
	_ = unix.Munmap(b.mem) // can only fail for arguments that never were a mapping
	b.mem = nil
}

// request is where a request is read to.
func (b *buffer) request() []byte { return b.mem[requestAt:] }

// data is the page-aligned part behind the headroom.
func (b *buffer) data() []byte { return b.mem[headroomBytes:] }

// reply completes a reply whose first n bytes of data are in place and returns
// the whole message.
func (b *buffer) reply(unique uint64, n int, errno syscall.Errno) []byte {
	msg := b.mem[replyAt : headroomBytes+n]
	putOutHeader(msg, len(msg), errno, unique)
	return msg
}

// receiver is a buffer that holds the longest request, with what is needed to
// wait for one. Whoever holds a receiver that was given out by server.passOn
// may read requests.
type receiver struct {
	buffer
	epoll int   // waits for a request or for the end of the session
	ring  *ring // nil where there is no io_uring
	burst burst // of the reader that holds this receiver
}

// newReceiver prepares a receiver for the connection fd that wakes up early
// when stop (an eventfd) becomes readable. Of all receivers that wait, the
// kernel wakes one for one request (EPOLLEXCLUSIVE).
func newReceiver(fd, stop int) (*receiver, error) {
	buf, err := newBuffer(maxWriteBytes)
	if err != nil {
		return nil, err
	}
	r := &receiver{buffer: buf, epoll: -1}
	r.burst = burst{want: 1, replies: make([][]byte, 0, maxBurst), ops: make([]operation, 0, 2*maxBurst)}
	// Without a ring every request takes two system calls, and that is all.
	r.ring, _ = newRing(2 * maxBurst)
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		r.free()
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	for _, w := range []struct {
		fd     int
		events uint32
	}{{fd, unix.EPOLLIN | unix.EPOLLEXCLUSIVE}, {stop, unix.EPOLLIN}} {
		ev := unix.EpollEvent{Events: w.events, Fd: int32(w.fd)}
		if err := unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, w.fd, &ev); err != nil {
			r.free()
			return nil, os.NewSyscallError("epoll_ctl", err)
		}
	}
	return r, nil
}

func (r *receiver) free() {
	r.buffer.free()
	if r.epoll >= 0 {
		_ = unix.Close(r.epoll)
	}
	if r.ring != nil {
		r.ring.free()
	}
}

// pool holds the buffers of a session. All of them are made when the session
// starts: a process that serves a block device must not need memory in order
// to free memory.
type pool struct {
	all []interface{ free() } // constant
	// bytes is the memory of all buffers, and unlocked why some of it could not
	// be locked. Constant.
	bytes    int64
	unlocked error

	mu        sync.Mutex
	receivers []*receiver // not in use
	small     []*buffer   // not in use
}

func newPool(fd, stop, receivers, small int) (*pool, error) {
	p := &pool{}
	for range receivers {
		r, err := newReceiver(fd, stop)
		if err != nil {
			p.free()
			return nil, err
		}
		p.all = append(p.all, r)
		p.count(&r.buffer)
		p.receivers = append(p.receivers, r)
	}
	for range small {
		b, err := newBuffer(smallBytes)
		if err != nil {
			p.free()
			return nil, err
		}
		p.all = append(p.all, &b)
		p.count(&b)
		p.small = append(p.small, &b)
	}
	return p, nil
}

func (p *pool) count(b *buffer) {
	p.bytes += int64(len(b.mem))
	if p.unlocked == nil {
		p.unlocked = b.unlocked
	}
}

// free unmaps every buffer. None may be in use.
func (p *pool) free() {
	for _, b := range p.all {
		b.free()
	}
}

// takeReceiver returns a receiver, or nil when all are in use.
func (p *pool) takeReceiver() *receiver { return p.takeReceiverLeaving(0) }

// takeSpare returns a receiver whose buffer is used for a short time; nil when
// it would be the last one.
func (p *pool) takeSpare() *receiver { return p.takeReceiverLeaving(1) }

func (p *pool) takeReceiverLeaving(left int) *receiver {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.receivers)
	if n <= left {
		return nil
	}
	r := p.receivers[n-1]
	p.receivers = p.receivers[:n-1]
	return r
}

func (p *pool) putReceiver(r *receiver) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.receivers = append(p.receivers, r)
}

// lease is a buffer taken from the pool for the rest of one request.
type lease struct {
	*buffer
	receiver *receiver // set when the buffer is a receiver's
}

// take returns a buffer for dataBytes of data, or ok false when every buffer
// of that size is in use.
func (p *pool) take(dataBytes int) (l lease, ok bool) {
	if dataBytes > smallBytes {
		r := p.takeReceiver()
		if r == nil {
			return lease{}, false
		}
		return lease{buffer: &r.buffer, receiver: r}, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.small)
	if n == 0 {
		return lease{}, false
	}
	b := p.small[n-1]
	p.small = p.small[:n-1]
	return lease{buffer: b}, true
}

func (p *pool) put(l lease) {
	if l.receiver != nil {
		p.putReceiver(l.receiver)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.small = append(p.small, l.buffer)
}
