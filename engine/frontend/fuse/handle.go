package fuse

import (
	"context"
	"math"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
)

// task is a request that was looked at: either its reply is ready, or wait makes
// it. A request without a reply has neither.
type task struct {
	reply []byte // in the buffer of the request
	// wait serves the request, for which it may have to wait for the device,
	// and returns the reply in b, which has room for dataBytes of data. It does
	// not use the buffer in which the request came.
	wait      func(b *buffer) []byte
	dataBytes int
}

// decodeRequest splits a message into header and body.
func decodeRequest(msg []byte) (inHeader, []byte, error) {
	h, err := decodeHeader(msg)
	if err != nil {
		return inHeader{}, nil, err
	}
	return h, msg[inHeaderBytes:], nil
}

// service answers requests with a device, whichever way they came. It is
// constant.
type service struct {
	ctx   context.Context // for calls of dev; never cancelled
	dev   engine.Device
	try   TryReader          // dev, or nil
	batch engine.BatchWriter // dev, or nil
}

func newService(ctx context.Context, dev engine.Device) service {
	s := service{ctx: ctx, dev: dev}
	s.try, _ = dev.(TryReader)
	s.batch, _ = dev.(engine.BatchWriter)
	return s
}

// handle serves the request in b, which is no WRITE, as far as that needs no
// waiting. An error ends the session.
func (s *service) handle(b *buffer, h inHeader, body []byte) (task, error) {
	switch h.op {
	case opRead:
		return s.handleRead(b, h, body)
	case opFsync:
		// The datasync flag makes no difference: the device has no other
		// metadata than what makes its data readable.
		return task{wait: func(b *buffer) []byte {
			return b.reply(h.unique, 0, errnoOf(s.dev.Flush(s.ctx)))
		}}, nil
	case opFallocate:
		return s.handleFallocate(b, h, body)
	case opForget, opBatchForget, opNotifyReply:
		return task{}, nil // these have no reply
	default:
		n, errno, err := s.handleNode(b, h, body)
		if err != nil {
			return task{}, err
		}
		return task{reply: b.reply(h.unique, n, errno)}, nil
	}
}

// inRange checks what the kernel asks for against the device before the device
// does, and in a way that cannot overflow.
func (s *service) inRange(off, length int64) syscall.Errno {
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

func (s *service) handleRead(b *buffer, h inHeader, body []byte) (task, error) {
	in, err := decodeRead(body)
	if err != nil {
		return task{}, err
	}
	if in.size > len(b.data()) {
		return task{reply: b.reply(h.unique, 0, unix.EINVAL)}, nil
	}
	// A read that starts before the end and reaches beyond it is cut short, as
	// for any file: that is how a program finds the end.
	if left := s.dev.SizeBytes() - in.offset; in.offset >= 0 && left < int64(in.size) {
		in.size = int(max(left, 0))
	}
	if in.size == 0 {
		return task{reply: b.reply(h.unique, 0, 0)}, nil
	}
	if errno := s.inRange(in.offset, int64(in.size)); errno != 0 {
		return task{reply: b.reply(h.unique, 0, errno)}, nil
	}
	if s.try != nil {
		if done, err := s.try.TryReadAt(b.data()[:in.size], in.offset); done {
			return task{reply: replyRead(b, h, in, err)}, nil
		}
	}
	return task{dataBytes: in.size, wait: func(b *buffer) []byte {
		return replyRead(b, h, in, s.dev.ReadAt(s.ctx, b.data()[:in.size], in.offset))
	}}, nil
}

// replyRead answers a READ whose data is in b, or that failed.
func replyRead(b *buffer, h inHeader, in readIn, failure error) []byte {
	if errno := errnoOf(failure); errno != 0 {
		return b.reply(h.unique, 0, errno)
	}
	return b.reply(h.unique, in.size, 0)
}

func (s *service) handleFallocate(b *buffer, h inHeader, body []byte) (task, error) {
	in, err := decodeFallocate(body)
	if err != nil {
		return task{}, err
	}
	if errno := s.inRange(in.offset, in.length); errno != 0 {
		return task{reply: b.reply(h.unique, 0, errno)}, nil
	}
	var change func() error
	switch in.mode {
	case fallocPunchHole | fallocKeepSize:
		change = func() error { return s.dev.Discard(s.ctx, in.offset, in.length) }
	case fallocZeroRange | fallocKeepSize:
		change = func() error { return s.dev.WriteZeroes(s.ctx, in.offset, in.length, false) }
	default:
		return task{reply: b.reply(h.unique, 0, unix.EOPNOTSUPP)}, nil
	}
	return task{wait: func(b *buffer) []byte {
		return b.reply(h.unique, 0, errnoOf(change()))
	}}, nil
}

// stepAside serves t, all that is left of r's burst. If the caller is the last
// reader it passes r on first and serves in another buffer (kept is then
// false); if other readers are there, or no buffer is left, it uses r's. The
// request itself stays with this goroutine, whose caches are warm; the one that
// is woken does what can wait.
func (s *server) stepAside(r *receiver, t task) (kept bool, err error) {
	if s.reading.Load() > 0 {
		return true, s.write(t.wait(&r.buffer))
	}
	l, ok := s.buffers.take(t.dataBytes)
	if !ok {
		s.busy()
		return true, s.write(t.wait(&r.buffer))
	}
	s.passOn(r)
	defer s.buffers.put(l)
	return false, s.write(t.wait(l.buffer))
}

// spawn serves t in l, in a goroutine of its own. There are never more of them
// than buffers.
func (s *server) spawn(t task, l lease) {
	s.wg.Go(func() {
		defer s.buffers.put(l)
		if err := s.write(t.wait(l.buffer)); err != nil {
			s.end(err)
		}
	})
}

// handleNode serves the requests about names and attributes. It puts the
// reply's data into b and returns its length.
func (s *service) handleNode(b *buffer, h inHeader, body []byte) (int, syscall.Errno, error) {
	out := b.data()
	switch h.op {
	case opLookup:
		name, err := decodeName(body)
		if err != nil {
			return 0, 0, err
		}
		if h.node != nodeRoot || !isFileName(name) {
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
func (s *service) attr(node uint64) attr {
	switch {
	case node == nodeRoot:
		return attr{node: nodeRoot, mode: modeDir}
	case s.dev.ReadOnly():
		return attr{node: nodeFile, mode: modeFileReadOnly, size: s.dev.SizeBytes()}
	default:
		return attr{node: nodeFile, mode: modeFile, size: s.dev.SizeBytes()}
	}
}
