package fuse

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of the io_uring interface (Linux include/uapi/linux/io_uring.h).
const (
	ringOffSQ      = 0
	ringOffSQEs    = 0x10000000
	ringOpRead     = 22
	ringOpWrite    = 23
	ringGetEvents  = 1
	ringCurrentPos = ^uint64(0)
	ringSingleMmap = 1 << 0  // the two rings share a mapping, Linux 5.4
	ringLinkedFile = 1 << 12 // Linux 5.19, which also has what follows
	ringOpCancel   = 14
	ringCancelAll  = 1<<0 | 1<<2 // every operation of the ring

	ringOpPoll    = 6
	ringPollMulti = 1 << 0 // goes on after the first event
	ringOpCommand = 46     // what a command means is up to the descriptor's driver

	ringMoreFollows = 1 << 1 // flag of a completion: its operation goes on

	ringSetupCoop = 1 << 8  // completions do not interrupt a running thread, Linux 5.19
	ringSetupWide = 1 << 10 // submissions of 128 bytes, which commands need, Linux 5.19
)

// ringParams is struct io_uring_params.
type ringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wqFD uint32
	_                                                      [3]uint32
	sq                                                     struct{ head, tail, mask, entries, flags, dropped, array, _, _, _ uint32 }
	cq                                                     struct{ head, tail, mask, entries, overflow, cqes, flags, _, _, _ uint32 }
}

// submission is struct io_uring_sqe.
type submission struct {
	op, flags uint8
	priority  uint16
	fd        int32
	off       uint64
	addr      uint64
	length    uint32
	rwFlags   uint32
	user      uint64
	_         uint64
	command   [2]uint64 // how a command's own parameters begin; on a wide ring they go on in the next entry
}

// completion is struct io_uring_cqe.
type completion struct {
	user  uint64
	res   int32
	flags uint32
}

// ring is an io_uring. It is used in one of two ways: do runs a list of reads and
// writes, and push, submit and pop are for operations that complete some time.
type ring struct {
	fd      int
	rings   []byte // both rings
	entries []byte // the submissions
	sqes    []submission
	cqes    []completion

	sqTail, cqHead, cqTail *uint32 // shared with the kernel
	sqMask, cqMask         uint32
	stride                 uint32 // entries of sqes to a submission: 2 on a wide ring
}

// newRing makes a ring for lists of up to operations operations; see setUpRing.
func newRing(operations uint32) (*ring, error) {
	return setUpRing(operations+1, 0) // and the one that cancels
}

// setUpRing makes a ring with room for entries submissions at once. It fails where
// the kernel is older than 5.19 or where io_uring is forbidden, as in containers
// with the usual seccomp profile.
func setUpRing(entries, flags uint32) (*ring, error) {
	p := ringParams{flags: flags}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, os.NewSyscallError("io_uring_setup", errno)
	}
	r := &ring{fd: int(fd), stride: 1}
	if flags&ringSetupWide != 0 {
		r.stride = 2
	}
	if p.features&ringSingleMmap == 0 || p.features&ringLinkedFile == 0 {
		r.free()
		return nil, fmt.Errorf("set up io_uring: features %#x: %w", p.features, unix.ENOSYS)
	}
	if err := r.mapMemory(&p); err != nil {
		r.free()
		return nil, err
	}
	return r, nil
}

func (r *ring) mapMemory(p *ringParams) (err error) {
	const protection, kind = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	ringBytes := max(p.sq.array+p.sqEntries*4, p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(completion{})))
	if r.rings, err = unix.Mmap(r.fd, ringOffSQ, int(ringBytes), protection, kind); err != nil {
		return fmt.Errorf("map io_uring: %w", os.NewSyscallError("mmap", err))
	}
	entryBytes := int(p.sqEntries*r.stride) * int(unsafe.Sizeof(submission{}))
	if r.entries, err = unix.Mmap(r.fd, ringOffSQEs, entryBytes, protection, kind); err != nil {
		return fmt.Errorf("map io_uring: %w", os.NewSyscallError("mmap", err))
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[off])) }
	r.sqTail, r.sqMask = word(p.sq.tail), *word(p.sq.mask)
	r.cqHead, r.cqTail, r.cqMask = word(p.cq.head), word(p.cq.tail), *word(p.cq.mask)
	r.sqes = unsafe.Slice((*submission)(unsafe.Pointer(&r.entries[0])), p.sqEntries*r.stride)
	r.cqes = unsafe.Slice((*completion)(unsafe.Pointer(&r.rings[p.cq.cqes])), p.cqEntries)
	for i := range p.sqEntries { // each place of the ring always names the same entry
		*word(p.sq.array + 4*i) = i
	}
	return nil
}

func (r *ring) free() {
	if r.rings != nil {
		_ = unix.Munmap(r.rings)
	}
	if r.entries != nil {
		_ = unix.Munmap(r.entries)
	}
	_ = unix.Close(r.fd)
}

// operation is one read or write of a ring's list.
type operation struct {
	write bool
	mem   []byte // not of the Go heap
	// n and err are the outcome, set by do.
	n   int
	err error
}

// cancelled is the user field of the submission that ends every list.
const cancelled = ^uint64(0)

// do is not asynchronous: a read that would have to wait is cancelled in the same
// system call, so that no operation outlives it, and nothing reads a request that
// nobody asked for.
//
// It runs the operations, at most as many as newRing was told, on fd in their
// order and sets the outcome of each; that of a read which found nothing is
// ECANCELED. An error is of the ring itself; which operations were then done is
// not known.
func (r *ring) do(fd int, ops []operation) error {
	for i := range ops {
		o := &ops[i]
		op := uint8(ringOpRead)
		if o.write {
			op = ringOpWrite
		}
		r.push(i, submission{
			op: op, fd: int32(fd), off: ringCurrentPos,
			addr: uint64(uintptr(unsafe.Pointer(&o.mem[0]))), length: uint32(len(o.mem)), user: uint64(i),
		})
	}
	for pushed, left := len(ops), len(ops); left > 0; pushed = 0 {
		// A read without a request waits for one now. If one comes before it is
		// cancelled the read goes on, and may again find nothing because another
		// reader was faster; then the next round cancels it.
		r.push(pushed, submission{op: ringOpCancel, fd: -1, rwFlags: ringCancelAll, user: cancelled})
		atomic.StoreUint32(r.sqTail, *r.sqTail+uint32(pushed+1))
		done, err := r.enter(ops, pushed+1)
		if err != nil {
			return err
		}
		left -= done
	}
	return nil
}

// push puts a submission into the i-th free place, and on a wide ring clears what
// is behind it, of which it returns the first word.
func (r *ring) push(i int, s submission) *uint64 {
	at := (*r.sqTail + uint32(i)) & r.sqMask * r.stride
	r.sqes[at] = s
	if r.stride == 1 {
		return nil
	}
	r.sqes[at+1] = submission{}
	return (*uint64)(unsafe.Pointer(&r.sqes[at+1]))
}

// submit hands the first n places to the kernel and waits until there are at
// least wait completions.
func (r *ring) submit(n, wait int) error {
	atomic.StoreUint32(r.sqTail, *r.sqTail+uint32(n))
	for {
		done, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(n), uintptr(wait), ringGetEvents, 0, 0)
		switch errno {
		case 0:
			n -= int(done)
		case unix.EINTR, unix.EAGAIN, unix.EBUSY:
		default:
			return os.NewSyscallError("io_uring_enter", errno)
		}
		if n == 0 && (wait == 0 || *r.cqHead != atomic.LoadUint32(r.cqTail)) {
			return nil
		}
	}
}

// pop takes the next completion, if there is one.
func (r *ring) pop() (c completion, ok bool) {
	head := *r.cqHead
	if head == atomic.LoadUint32(r.cqTail) {
		return completion{}, false
	}
	c = r.cqes[head&r.cqMask]
	atomic.StoreUint32(r.cqHead, head+1)
	return c, true
}

// enter submits what was pushed, of which the last cancels, and returns how
// many operations have completed when the cancellation has.
func (r *ring) enter(ops []operation, pushed int) (done int, err error) {
	for cancel := false; !cancel; {
		// Raw: nothing here blocks, and the scheduler need not hear of it.
		n, _, errno := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(pushed), 1, ringGetEvents, 0, 0)
		switch errno {
		case 0:
			pushed -= int(n)
		case unix.EINTR, unix.EAGAIN, unix.EBUSY:
		default:
			return done, os.NewSyscallError("io_uring_enter", errno)
		}
		more := 0
		more, cancel = r.reap(ops)
		done += more
	}
	return done, nil
}

// reap takes what has completed; cancel tells whether that includes a
// cancellation.
func (r *ring) reap(ops []operation) (done int, cancel bool) {
	for {
		c, ok := r.pop()
		switch {
		case !ok:
			return done, cancel
		case c.user == cancelled:
			cancel = true
			continue
		}
		o := &ops[c.user]
		if o.n, o.err = int(c.res), nil; c.res < 0 {
			o.n, o.err = 0, unix.Errno(-c.res)
		}
		done++
	}
}
