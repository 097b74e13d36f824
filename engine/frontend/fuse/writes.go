package fuse

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
)

// maxBatchedBytes bounds a write that is served together with others; for a
// longer one the system calls matter little.
const maxBatchedBytes = 16 << 10

// writeBatch collects writes that came together. It is used again and again, so
// that serving takes nothing from the heap.
type writeBatch struct {
	writes []engine.Write
	from   []writeOrigin // of each of writes
}

// writeOrigin is where a write came from.
type writeOrigin struct {
	place  int // among the requests that came together
	slot   *buffer
	unique uint64
	sync   bool // must be durable before it is answered
}

// writeReplies is where the replies to a batch go.
type writeReplies interface {
	// queue takes the reply to the request at place, which lies in its buffer.
	queue(place int, msg []byte)
	// send sends what is queued.
	send() error
}

func (w *writeBatch) reset() { w.writes, w.from = w.writes[:0], w.from[:0] }

// addWrite decodes a write and adds it, or returns the reply that refuses it. An
// error ends the session.
func (s *service) addWrite(w *writeBatch, place int, slot *buffer, h inHeader, body []byte) (refusal []byte, err error) {
	in, err := decodeWrite(body)
	if err != nil {
		return nil, err
	}
	if errno := s.inRange(in.offset, int64(len(in.data))); errno != 0 {
		return slot.reply(h.unique, 0, errno), nil
	}
	w.writes = append(w.writes, engine.Write{Offset: in.offset, Data: in.data})
	w.from = append(w.from, writeOrigin{place: place, slot: slot, unique: h.unique, sync: in.isSync()})
	return nil, nil
}

// storeWrites stores the writes in their order, runs of small ones together,
// and queues their replies.
func (s *service) storeWrites(w *writeBatch, replies writeReplies) error {
	for first := 0; first < len(w.writes); {
		end := first
		for s.batch != nil && end < len(w.writes) && end-first < engine.MaxBatch && !w.from[end].sync && len(w.writes[end].Data) <= maxBatchedBytes {
			end++
		}
		if end-first < 2 || s.batch.WriteBatch(s.ctx, w.writes[first:end]) != nil {
			// Also after a batch that failed, so that each write gets its own
			// answer. What the batch stored is stored again, in its order.
			end = max(end, first+1)
			if err := s.storeSingly(w, first, end, replies); err != nil {
				return err
			}
		} else {
			for i := first; i < end; i++ {
				replies.queue(w.from[i].place, w.reply(i, 0))
			}
		}
		first = end
	}
	return nil
}

// storeSingly stores the writes from first to before end.
func (s *service) storeSingly(w *writeBatch, first, end int, replies writeReplies) error {
	for i := first; i < end; i++ {
		errno := errnoOf(s.dev.WriteAt(s.ctx, w.writes[i].Data, w.writes[i].Offset, w.from[i].sync))
		replies.queue(w.from[i].place, w.reply(i, errno))
		if w.from[i].sync || len(w.writes[i].Data) > maxBatchedBytes { // took long enough
			if err := replies.send(); err != nil {
				return err
			}
		}
	}
	return nil
}

// reply makes the reply to the i-th write, over its data.
func (w *writeBatch) reply(i int, errno syscall.Errno) []byte {
	from := &w.from[i]
	if errno != 0 {
		return from.slot.reply(from.unique, 0, errno)
	}
	return from.slot.reply(from.unique, putWriteOut(from.slot.data(), len(w.writes[i].Data)), 0)
}

// isSync reports whether a write must be durable before it is answered.
func (in *writeIn) isSync() bool { return in.openFlags&unix.O_DSYNC != 0 }
