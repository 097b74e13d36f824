package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/semaphore"
)

// transmission is the second phase of a connection.
type transmission struct {
	*connection
	export  *export
	replies replyWriter

	// slots has one value for each request between the reader and its sent
	// reply; it is what bounds workers and the queue of replies.
	slots chan struct{}
	// memory is what connectionBytes leaves for further payloads.
	memory *semaphore.Weighted

	tasks   chan task // unbuffered: handed to an idle worker
	workers sync.WaitGroup
}

// task is a request that the device has to answer.
type task struct {
	request
	payload *buffer // for a write its data, for a read room for them
}

// transmit serves requests until the client disconnects, the connection fails
// or is drained. All requests that were taken have been answered, or could
// not be, when it returns.
func (c *connection) transmit(e *export) error {
	t := &transmission{
		connection: c,
		export:     e,
		slots:      make(chan struct{}, c.server.config.Workers),
		memory:     semaphore.NewWeighted(connectionBytes),
		tasks:      make(chan task),
	}
	t.replies.conn = c.conn
	t.replies.sent = func(payloadBytes int) {
		t.memory.Release(int64(payloadBytes))
		<-t.slots
	}
	err := t.read()
	close(t.tasks)
	t.workers.Wait()
	// A failed write closes the socket under the reader, whose error then
	// says less than the writer's.
	if writeErr := t.replies.failure(); writeErr != nil {
		return fmt.Errorf("write reply: %w", writeErr)
	}
	if err != nil {
		return fmt.Errorf("serve nbd client: %w", err)
	}
	return nil
}

// read takes requests from the client. It returns nil when the client
// disconnected in an orderly way.
func (t *transmission) read() error {
	var raw [requestBytes]byte
	for {
		if _, err := io.ReadFull(t.in, raw[:]); errors.Is(err, io.EOF) {
			return nil // between requests: many clients never send DISC
		} else if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		r, err := parseRequest(raw[:])
		if err != nil {
			return err
		}
		if r.command == cmdDisconnect {
			return nil
		}
		if err := t.take(r); err != nil {
			return err
		}
	}
}

// take gets one request under way, with its payload.
func (t *transmission) take(r request) error {
	select {
	case t.slots <- struct{}{}:
	case <-t.requests.Done():
		return t.requests.Err()
	}
	device := t.export.device
	if s, message := refuse(r, t.negotiated, device.SizeBytes(), device.ReadOnly()); s != statusOK {
		return t.turnDown(r, s, message)
	}
	payload, err := t.receive(r)
	if err != nil {
		<-t.slots
		return err
	}
	t.dispatch(task{request: r, payload: payload})
	return nil
}

// turnDown answers a request that never gets to the device. Its payload must
// be taken from the stream to find the next request.
func (t *transmission) turnDown(r request, s status, message string) error {
	if r.command == cmdWrite {
		if err := t.skip(r.length, "refused payload"); err != nil {
			<-t.slots
			return err
		}
	}
	answer := newReply(nil)
	t.fail(answer, r, s, message)
	t.replies.send(answer)
	return nil
}

// receive reserves memory for the payload of a read or write and, for a
// write, reads it. Other requests have none.
func (t *transmission) receive(r request) (*buffer, error) {
	if (r.command != cmdRead && r.command != cmdWrite) || r.length == 0 {
		return nil, nil
	}
	size := int64(bufferBytes(int(r.length)))
	if err := t.memory.Acquire(t.requests, size); err != nil {
		return nil, fmt.Errorf("wait for payload memory: %w", err)
	}
	payload := takeBuffer(int(r.length))
	if r.command == cmdWrite {
		if err := t.readFull(payload.bytes, "payload"); err != nil {
			payload.release()
			t.memory.Release(size)
			return nil, err
		}
	}
	return payload, nil
}

// dispatch hands the task to an idle worker or to a new one. The task holds a
// slot, so there are never more workers than slots.
func (t *transmission) dispatch(next task) {
	select {
	case t.tasks <- next:
	default:
		t.workers.Go(func() { t.work(next) })
	}
}

// work carries out tasks until there are no more.
func (t *transmission) work(next task) {
	for ok := true; ok; next, ok = <-t.tasks {
		t.replies.send(t.perform(t.requests, next))
	}
}

// perform carries out one task and returns its reply, which owns the payload.
func (t *transmission) perform(ctx context.Context, next task) *reply {
	answer := newReply(next.payload)
	if err := t.call(ctx, next, answer); err != nil {
		t.fail(answer, next.request, statusOf(next.command, err), err.Error())
	}
	return answer
}

// fail fills the answer with an error. A READ must not have a simple reply
// once structured ones were negotiated; the others may, but a chunk can say
// more.
func (t *transmission) fail(answer *reply, r request, s status, message string) {
	if t.negotiated.structured {
		answer.failed(r.cookie, s, message)
	} else {
		answer.simple(r.cookie, s, nil)
	}
}
