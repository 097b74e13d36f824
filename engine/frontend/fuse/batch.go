package fuse

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
)

// isSync reports whether a write must be durable before it is answered.
func (in *writeIn) isSync() bool { return in.openFlags&unix.O_DSYNC != 0 }

// mayBatch reports whether a write can be served together with others.
func (in *writeIn) mayBatch() bool { return !in.isSync() && len(in.data) <= maxBatchedBytes }

// gathered is a write of a batch that waits for its reply.
type gathered struct {
	buffer
	unique uint64
	bytes  int
}

// handleBatch serves a small write together with those that are waiting in the
// kernel: most of what a small write costs is system calls, and a batch is one
// call to the device's disk. It reads until nothing waits, or something else
// than a small write comes, which is served after the batch.
func (s *server) handleBatch(r *receiver, b *buffer, h inHeader, in writeIn) (kept bool, err error) {
	var batch [engine.MaxBatch]gathered
	var writes [engine.MaxBatch]engine.Write
	count := 0
	add := func(b buffer, unique uint64, in writeIn) {
		batch[count] = gathered{b, unique, len(in.data)}
		writes[count] = engine.Write{Offset: in.offset, Data: in.data}
		count++
	}
	add(*b, h.unique, in)
	var other buffer // holds a request that is none of the batch
	otherBytes := 0
	for count < engine.MaxBatch {
		next, ok := batch[count-1].behind(batch[count-1].bytes)
		if !ok {
			break
		}
		n, err := s.poll(&next)
		if err != nil {
			return true, err
		}
		if n == 0 {
			break
		}
		h, in, ok := s.smallWrite(next.request()[:n])
		if !ok {
			other, otherBytes = next, n
			break
		}
		add(next, h.unique, in)
	}
	s.busy()
	singly := count == 1 || s.batch.WriteBatch(s.ctx, writes[:count]) != nil
	for i := range batch[:count] {
		g, errno := &batch[i], syscall.Errno(0)
		if singly {
			// Also after a batch that failed, so that each write gets its own
			// answer. What the batch stored is stored again, in its order.
			errno = errnoOf(s.dev.WriteAt(s.ctx, writes[i].Data, writes[i].Offset, false))
		}
		if err := s.replyWrite(&g.buffer, g.unique, g.bytes, errno); err != nil {
			return true, err
		}
	}
	if otherBytes == 0 {
		return true, nil
	}
	s.served.Add(uint64(count))
	return s.handle(r, &other, otherBytes)
}

// smallWrite decodes a request that can join a batch; ok is false for any
// other, also for one that is refused.
func (s *server) smallWrite(msg []byte) (h inHeader, in writeIn, ok bool) {
	h, err := decodeHeader(msg)
	if err != nil || h.op != opWrite {
		return h, in, false
	}
	in, err = decodeWrite(msg[inHeaderBytes:])
	return h, in, err == nil && in.mayBatch() && s.inRange(in.offset, int64(len(in.data))) == 0
}
