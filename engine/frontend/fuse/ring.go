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
	_         [3]uint64
}

// completion is struct io_uring_cqe.
type completion struct {
	user  uint64
	res   int32
	flags uint32
}

// ring is an io_uring that runs a list of reads and writes of a non-blocking
// descriptor in one system call. It is not asynchronous: a read that would have
// to wait is cancelled in the same system call, so that no operation outlives
// do, and nothing reads a request that nobody asked for.
type ring struct {
	fd      int
	rings   []byte // both rings
	entries []byte // the submissions
	sqes    []submission
	cqes    []completion

	sqTail, cqHead, cqTail *uint32 // shared with the kernel
	sqMask, cqMask         uint32
}

// newRing makes a ring for up to operations operations. It fails where the
// kernel is older than 5.19 and cannot cancel them all at once, or where io_uring is forbidden, as in containers with the usual seccomp profile.
func newRing(operations uint32) (*ring, error) {
	var p ringParams
	entries := operations + 1 // and the one that cancels
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, os.NewSyscallError("io_uring_setup", errno)
	}
	r := &ring{fd: int(fd)}
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
	entryBytes := int(p.sqEntries) * int(unsafe.Sizeof(submission{}))
	if r.entries, err = unix.Mmap(r.fd, ringOffSQEs, entryBytes, protection, kind); err != nil {
		return fmt.Errorf("map io_uring: %w", os.NewSyscallError("mmap", err))
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[off])) }
	r.sqTail, r.sqMask = word(p.sq.tail), *word(p.sq.mask)
	r.cqHead, r.cqTail, r.cqMask = word(p.cq.head), word(p.cq.tail), *word(p.cq.mask)
	r.sqes = unsafe.Slice((*submission)(unsafe.Pointer(&r.entries[0])), p.sqEntries)
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

// do runs the operations, at most as many as newRing was told, on fd in their
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

// push puts a submission into the i-th free place.
func (r *ring) push(i int, s submission) { r.sqes[(*r.sqTail+uint32(i))&r.sqMask] = s }

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
	head, tail := *r.cqHead, atomic.LoadUint32(r.cqTail)
	for ; head != tail; head++ {
		c := &r.cqes[head&r.cqMask]
		if c.user == cancelled {
			cancel = true
			continue
		}
		o := &ops[c.user]
		if o.n, o.err = int(c.res), nil; c.res < 0 {
			o.n, o.err = 0, unix.Errno(-c.res)
		}
		done++
	}
	atomic.StoreUint32(r.cqHead, head)
	return done, cancel
}
