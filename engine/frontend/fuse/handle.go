package fuse

import (
	"bytes"
	"math"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
)

// handle serves the request of n bytes in b, which is r's buffer or a part of
// it. It returns kept false if r was passed on to another goroutine, and an
// error only if the session has to end.
func (s *server) handle(r *receiver, b *buffer, n int) (kept bool, err error) {
	msg := b.request()[:n]
	h, err := decodeHeader(msg)
	if err != nil {
		return true, err
	}
	body := msg[inHeaderBytes:]
	switch h.op {
	case opWrite:
		return s.handleWrite(r, b, h, body)
	case opRead:
		return s.handleRead(r, b, h, body)
	case opFsync:
		return s.handleFlush(r, b, h)
	case opFallocate:
		return s.handleFallocate(r, b, h, body)
	case opForget, opBatchForget, opNotifyReply:
		return true, nil // these have no reply
	default:
		n, errno, err := s.handleNode(b, h, body)
		if err != nil {
			return true, err
		}
		return true, s.write(b.reply(h.unique, n, errno))
	}
}

// inRange checks what the kernel asks for against the device before the device
// does, and in a way that cannot overflow.
func (s *server) inRange(off, length int64) syscall.Errno {
	if off < 0 || length < 0 || off > math.MaxInt64-length {
		return unix.EINVAL
	}
	if (off|length)%engine.SectorBytes != 0 {
		return unix.EINVAL
	}
	if off+length > s.dev.SizeBytes() {
		return unix.EIO // as a disk answers beyond its end
	}
	return 0
}

func (s *server) handleWrite(r *receiver, b *buffer, h inHeader, body []byte) (kept bool, err error) {
	in, err := decodeWrite(body)
	if err != nil {
		return true, err
	}
	errno := s.inRange(in.offset, int64(len(in.data)))
	if errno == 0 && s.batch != nil && in.mayBatch() {
		return s.handleBatch(r, b, h, in)
	}
	if errno == 0 {
		s.busy()
		errno = errnoOf(s.dev.WriteAt(s.ctx, in.data, in.offset, in.isSync()))
	}
	return true, s.replyWrite(b, h.unique, len(in.data), errno)
}

func (s *server) replyWrite(b *buffer, unique uint64, dataBytes int, errno syscall.Errno) error {
	if errno != 0 {
		return s.write(b.reply(unique, 0, errno))
	}
	return s.write(b.reply(unique, putWriteOut(b.data(), dataBytes), 0))
}

func (s *server) handleRead(r *receiver, b *buffer, h inHeader, body []byte) (kept bool, err error) {
	in, err := decodeRead(body)
	if err != nil {
		return true, err
	}
	if in.size > maxWriteBytes {
		return true, s.write(b.reply(h.unique, 0, unix.EINVAL))
	}
	// A read that starts before the end and reaches beyond it is cut short, as
	// for any file: that is how a program finds the end.
	if left := s.dev.SizeBytes() - in.offset; in.offset >= 0 && left < int64(in.size) {
		in.size = int(max(left, 0))
	}
	if errno := s.inRange(in.offset, int64(in.size)); errno != 0 || in.size == 0 {
		if in.size == 0 {
			errno = 0
		}
		return true, s.write(b.reply(h.unique, 0, errno))
	}
	if s.try != nil {
		if done, err := s.try.TryReadAt(b.data()[:in.size], in.offset); done {
			return true, s.replyRead(b, h, in, err)
		}
	}
	return s.stepAside(r, b, in.size, func(b *buffer) error {
		return s.replyRead(b, h, in, s.dev.ReadAt(s.ctx, b.data()[:in.size], in.offset))
	})
}

// replyRead answers a READ whose data is in b, or that failed.
func (s *server) replyRead(b *buffer, h inHeader, in readIn, failure error) error {
	if errno := errnoOf(failure); errno != 0 {
		return s.write(b.reply(h.unique, 0, errno))
	}
	return s.write(b.reply(h.unique, in.size, 0))
}

// handleFlush serves FSYNC. The datasync flag makes no difference: the device
// has no other metadata than what makes its data readable.
func (s *server) handleFlush(r *receiver, b *buffer, h inHeader) (kept bool, err error) {
	return s.stepAside(r, b, 0, func(b *buffer) error {
		return s.write(b.reply(h.unique, 0, errnoOf(s.dev.Flush(s.ctx))))
	})
}

func (s *server) handleFallocate(r *receiver, b *buffer, h inHeader, body []byte) (kept bool, err error) {
	in, err := decodeFallocate(body)
	if err != nil {
		return true, err
	}
	if errno := s.inRange(in.offset, in.length); errno != 0 {
		return true, s.write(b.reply(h.unique, 0, errno))
	}
	var change func() error
	switch in.mode {
	case fallocPunchHole | fallocKeepSize:
		change = func() error { return s.dev.Discard(s.ctx, in.offset, in.length) }
	case fallocZeroRange | fallocKeepSize:
		change = func() error { return s.dev.WriteZeroes(s.ctx, in.offset, in.length, false) }
	default:
		return true, s.write(b.reply(h.unique, 0, unix.EOPNOTSUPP))
	}
	return s.stepAside(r, b, 0, func(b *buffer) error {
		return s.write(b.reply(h.unique, 0, errnoOf(change())))
	})
}

// stepAside runs serve, which may wait for the device, with a buffer for
// dataBytes of data. If the caller is the last reader it passes r on first and
// serves in another buffer (kept is then false); if other readers are there,
// or no buffer is left, serve uses b, which is r's or a part of it. The request itself stays with this
// goroutine, whose caches are warm; the one that is woken does what can wait.
func (s *server) stepAside(r *receiver, b *buffer, dataBytes int, serve func(*buffer) error) (kept bool, err error) {
	if s.reading.Load() > 0 {
		return true, serve(b)
	}
	l, ok := s.buffers.take(dataBytes)
	if !ok {
		s.busy()
		return true, serve(b)
	}
	s.passOn(r)
	defer s.buffers.put(l)
	return false, serve(l.buffer)
}

// handleNode serves the requests about names and attributes. It puts the
// reply's data into b and returns its length.
func (s *server) handleNode(b *buffer, h inHeader, body []byte) (int, syscall.Errno, error) {
	out := b.data()
	switch h.op {
	case opLookup:
		name, err := decodeName(body)
		if err != nil {
			return 0, 0, err
		}
		if h.node != nodeRoot || !bytes.Equal(name, []byte(FileName)) {
			return 0, unix.ENOENT, nil
		}
		return putEntryOut(out, s.attr(nodeFile)), 0, nil
	case opGetattr:
		return putAttrOut(out, s.attr(h.node)), 0, nil
	case opSetattr:
		in, err := decodeSetattr(body)
		if err != nil {
			return 0, 0, err
		}
		if in.valid&setattrSize != 0 && in.size != uint64(s.attr(h.node).size) {
			return 0, unix.EPERM, nil // a device grows by expanding its volume
		}
		return putAttrOut(out, s.attr(h.node)), 0, nil
	case opOpen:
		return putOpenOut(out, fileHandle, openDirectIO|openNoFlush|openParallelDirectWrites), 0, nil
	case opOpendir:
		return putOpenOut(out, fileHandle, 0), 0, nil
	case opReaddir:
		in, err := decodeRead(body)
		if err != nil {
			return 0, 0, err
		}
		return putDirents(out[:min(in.size, len(out))], in.offset), 0, nil
	case opStatfs:
		return putStatfsOut(out, s.dev.SizeBytes()), 0, nil
	case opFlush, opRelease, opReleasedir, opFsyncdir, opDestroy:
		return 0, 0, nil
	default:
		// Also INTERRUPT: ENOSYS tells the kernel to send no more of them.
		return 0, unix.ENOSYS, nil
	}
}

// attr describes a node as it is now.
func (s *server) attr(node uint64) attr {
	switch {
	case node == nodeRoot:
		return attr{node: nodeRoot, mode: modeDir}
	case s.dev.ReadOnly():
		return attr{node: nodeFile, mode: modeFileReadOnly, size: s.dev.SizeBytes()}
	default:
		return attr{node: nodeFile, mode: modeFile, size: s.dev.SizeBytes()}
	}
}
