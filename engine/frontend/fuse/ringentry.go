package fuse

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FUSE over io_uring (Linux include/uapi/linux/fuse.h, struct
// fuse_uring_req_header, and Documentation/filesystems/fuse/fuse-io-uring.rst)
// takes a message apart: its header, the arguments of its opcode, and the payload,
// which is all that follows, each have a place of their own.
const (
	ringArgsAt       = 128 // the header, of a request or of a reply, is at 0
	ringArgsBytes    = 128
	ringEntryAt      = ringArgsAt + ringArgsBytes // struct fuse_uring_ent_in_out
	ringCommitAt     = ringEntryAt + 8
	ringPayloadAt    = ringEntryAt + 16 // bytes of the payload, 32 bits
	ringHeadersBytes = ringEntryAt + 32
)

// Commands to the kernel (enum fuse_uring_cmd). Both complete when there is a
// request in the entry.
const (
	ringRegister       = 1
	ringCommitAndFetch = 2
)

// ringPayloadBytes is the longest READ or WRITE over io_uring. It is shorter than
// over /dev/fuse, because the kernel wants memory for the longest one in every
// entry of every CPU's queue.
const ringPayloadBytes = 256 << 10

// Each queue gets as many entries as ringMemoryBytes allow for all of them, at
// least 1 and at most maxRingEntries.
const (
	ringMemoryBytes = 32 << 20
	maxRingEntries  = 16
)

// entriesPerQueue is how many requests of one CPU can be in service at once.
func entriesPerQueue(queues, payloadBytes int) int {
	return min(max(ringMemoryBytes/(queues*payloadBytes), 1), maxRingEntries)
}

// ringEntry is a place that the kernel puts a request into, and takes the reply
// from. While it is registered and holds no request it belongs to the kernel. The
// headers are at the start of its buffer's headroom, and the payload is the
// buffer's data.
type ringEntry struct {
	buffer
	number int    // among its ring's entries
	queue  uint16 // number of the CPU whose requests it takes
	// commit identifies the request that is in the entry.
	commit uint64
	// iovec tells the kernel where headers and payload are.
	iovec [2]unix.Iovec
}

func newRingEntry(number int, queue uint16, payloadBytes int) (*ringEntry, error) {
	b, err := newBuffer(payloadBytes)
	if err != nil {
		return nil, err
	}
	e := &ringEntry{buffer: b, number: number, queue: queue}
	e.iovec[0].Base = &e.mem[0]
	e.iovec[0].SetLen(ringHeadersBytes)
	e.iovec[1].Base = &e.data()[0]
	e.iovec[1].SetLen(payloadBytes)
	return e, nil
}

// unfold puts the request that the kernel has put into the entry into the form of
// a message from /dev/fuse. The payload, which is the data of a WRITE, stays where
// it is.
func (e *ringEntry) unfold() ([]byte, error) {
	headers := e.mem[:ringHeadersBytes]
	length := int64(binary.LittleEndian.Uint32(headers))
	payload := int64(binary.LittleEndian.Uint32(headers[ringPayloadAt:]))
	args := length - inHeaderBytes - payload
	if payload > int64(len(e.data())) || args < 0 || args > ringArgsBytes {
		return nil, fmt.Errorf("%w: message of %d bytes over io_uring has a payload of %d", ErrProtocol, length, payload)
	}
	e.commit = binary.LittleEndian.Uint64(headers[ringCommitAt:])
	msg := e.mem[headroomBytes-args-inHeaderBytes : headroomBytes+payload]
	copy(msg, headers[:inHeaderBytes])
	copy(msg[inHeaderBytes:], headers[ringArgsAt:ringArgsAt+args])
	return msg, nil
}

// fold puts a reply that buffer.reply has made into the form that the kernel takes
// from the entry.
func (e *ringEntry) fold(msg []byte) {
	copy(e.mem, msg[:outHeaderBytes])
	binary.LittleEndian.PutUint32(e.mem[ringPayloadAt:], uint32(len(msg)-outHeaderBytes))
}

// pushCommand puts a command about e for the connection fd into the i-th free
// place of a wide ring (struct fuse_uring_cmd_req).
func (e *ringEntry) pushCommand(r *ring, i, fd int, command uint64) {
	s := submission{op: ringOpCommand, fd: int32(fd), off: command, user: uint64(e.number), command: [2]uint64{0, e.commit}}
	if command == ringRegister {
		s.addr, s.length = uint64(uintptr(unsafe.Pointer(&e.iovec))), uint32(len(e.iovec))
	}
	*r.push(i, s) = uint64(e.queue)
}

// vacate gives the entry's memory back although the kernel may still put a
// request into it: that fails then, since the addresses are never used again.
func (e *ringEntry) vacate() {
	_, _ = unix.MmapPtr(-1, 0, unsafe.Pointer(&e.mem[0]), uintptr(len(e.mem)), unix.PROT_NONE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED|unix.MAP_NORESERVE) // cannot fail for a mapping of ours
	e.mem = nil
}
