package nbd

import (
	"net"
	"sync"
)

// replyWriter sends the replies of one connection whole, one after another.
// There is no goroutine for it: whoever has a reply while nobody is sending
// sends its own and all that arrive meanwhile, in one system call per round.
// Under load that makes one call for many replies; alone, it costs no wake-up.
type replyWriter struct {
	conn net.Conn

	mu      sync.Mutex
	sending bool
	queue   []*reply // at most one for each request in flight
	spare   []*reply // the array of an earlier queue
	err     error    // the first failure; later replies are dropped

	// sent is called for each reply that was written or dropped, with the
	// payload memory that is free now. It must not block.
	sent func(payloadBytes int)

	vector net.Buffers // owned by whoever is sending
}

// send takes the reply over and returns when it is sent, or left to another
// caller that is sending already. A connection that fails is closed, which
// ends its reader.
func (w *replyWriter) send(r *reply) {
	w.mu.Lock()
	w.queue = append(w.queue, r)
	if w.sending {
		w.mu.Unlock()
		return
	}
	w.sending = true
	for len(w.queue) > 0 {
		batch := w.queue
		w.queue, w.spare = w.spare[:0], nil
		failed := w.err != nil
		w.mu.Unlock()

		var err error
		if !failed {
			err = w.write(batch)
		}
		for _, r := range batch {
			w.finish(r)
		}

		w.mu.Lock()
		clear(batch)
		w.spare = batch
		if err != nil && w.err == nil {
			w.err = err
			w.conn.Close()
		}
	}
	w.sending = false
	w.mu.Unlock()
}

// write sends a batch in as few system calls as it can.
func (w *replyWriter) write(batch []*reply) error {
	if len(batch) == 1 && len(batch[0].parts) == 1 {
		_, err := w.conn.Write(batch[0].parts[0])
		return err
	}
	vector := w.vector[:0]
	for _, r := range batch {
		vector = append(vector, r.parts...)
	}
	// WriteTo moves the start of the slice it is called on.
	w.vector = vector
	_, err := w.vector.WriteTo(w.conn)
	clear(vector)
	w.vector = vector[:0]
	return err
}

func (w *replyWriter) finish(r *reply) {
	payloadBytes := 0
	if r.payload != nil {
		payloadBytes = len(r.payload.full)
	}
	r.release()
	w.sent(payloadBytes)
}

// failure is the error that ended sending, if any.
func (w *replyWriter) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
