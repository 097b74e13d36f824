package fuse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
)

// server is one running Serve.
type server struct {
	service
	fd      int
	stop    int // eventfd: readable from the moment the session is to end
	buffers *pool
	readers int64 // Options.Readers

	// passed carries receivers to goroutines that wait for one. Its capacity
	// is the number of receivers, so sending never blocks.
	passed chan *receiver
	// idle counts the goroutines that wait for a receiver and have not been
	// promised one.
	idle atomic.Int64
	// active counts the receivers whose holders may read.
	active atomic.Int64
	stallWatch
	// rings is how requests come over io_uring, beside those that still come
	// over fd; empty without that transport. Constant.
	rings []*ringReader

	ending  atomic.Bool
	done    chan struct{} // closed with ending
	failure error         // why the session ends; written once, before done is closed
	once    sync.Once
	wg      sync.WaitGroup
}

func newServer(ctx context.Context, fd, stop int, dev engine.Device, buffers *pool, opts Options) *server {
	s := &server{
		service: newService(ctx, dev),
		fd:      fd,
		stop:    stop,
		buffers: buffers,
		readers: int64(opts.Readers),
		passed:  make(chan *receiver, opts.Receivers),
		done:    make(chan struct{}),
	}
	s.prepare(s.addReader)
	return s
}

// run starts the goroutines of the session and joins them.
func (s *server) run(ctx context.Context) error {
	for range s.readers {
		s.active.Add(1)
		s.passOn(s.buffers.takeReceiver())
	}
	s.wg.Go(func() { s.watchStalls(s.done) })
	for _, r := range s.rings {
		r.start()
	}
	select {
	case <-ctx.Done():
		s.end(nil)
	case <-s.done:
	}
	s.wg.Wait()
	return s.failure
}

// end makes every goroutine finish what it is at and return. Only the first
// call counts.
func (s *server) end(cause error) {
	s.once.Do(func() {
		s.failure = cause
		s.ending.Store(true)
		close(s.done)
		// Never read back, so that it wakes every waiting receiver. A write of
		// 1 to a fresh eventfd cannot fail.
		signal(s.stop)
		for _, r := range s.rings {
			signal(r.bell)
		}
	})
}

func (s *server) freeRings() {
	for _, r := range s.rings {
		r.free()
	}
}

// signal adds 1 to an eventfd.
func signal(eventfd int) { _, _ = unix.Write(eventfd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// addReader takes one more receiver into use, if one is left.
func (s *server) addReader() {
	if r := s.buffers.takeReceiver(); r != nil {
		s.active.Add(1)
		s.passOn(r)
	}
}

// passOn gives r, and with it the permission to read, to another goroutine: to
// one that waits for it, or else to a new one. There are never more goroutines
// than buffers: one that has no receiver and does not wait for one holds a
// lease.
func (s *server) passOn(r *receiver) {
	if s.idle.Add(-1) >= 0 {
		s.passed <- r
		return
	}
	s.idle.Add(1)
	s.wg.Go(func() { s.work(r) })
}

// work reads and serves requests until the session ends.
func (s *server) work(r *receiver) {
	for {
		if r == nil {
			if r = s.await(); r == nil {
				return
			}
		}
		if s.ending.Load() {
			if err := s.finish(&r.burst); err != nil {
				s.end(err)
			}
			return
		}
		if s.surplus() {
			if err := s.finish(&r.burst); err != nil {
				s.end(err)
				return
			}
			s.buffers.putReceiver(r)
			r = nil
			continue
		}
		got, err := s.receive(r)
		if err != nil {
			s.end(err)
			return
		}
		if got == 0 {
			continue // the session ends
		}
		kept, err := s.serve(r, got)
		if err != nil {
			s.end(err)
			return
		}
		if !kept {
			r = nil
		}
	}
}

// await waits for a receiver that passOn gives away; nil means the end.
func (s *server) await() *receiver {
	s.idle.Add(1)
	select {
	case r := <-s.passed:
		return r
	case <-s.done:
		return nil
	}
}

// surplus takes the caller's receiver out of the active ones if a stall has
// brought more of them than Options.Readers and another one will take the next
// request.
func (s *server) surplus() bool {
	for {
		n := s.active.Load()
		if n <= s.readers || s.reading.Load() == 0 {
			return false
		}
		if s.active.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// receive sends what is queued, waits for requests and reads them. It returns
// how many, or 0 when the session ends before there is one.
func (s *server) receive(r *receiver) (int, error) {
	s.reading.Add(1)
	defer s.reading.Add(-1)
	for waited := false; ; waited = true {
		got, err := s.exchange(r)
		r.burst.expect(got, waited)
		if got > 0 || err != nil {
			return got, err
		}
		if err := s.awaitRequest(r); err != nil {
			return 0, err
		}
		if s.ending.Load() {
			return 0, nil
		}
	}
}

// poll reads a request that is waiting, and returns 0 if there is none.
func (s *server) poll(b *buffer) (int, error) {
	for {
		n, err := unix.Read(s.fd, b.request())
		switch {
		case err == nil && n > 0:
			return n, nil
		case err == nil, gone(err):
			return 0, ErrUnmounted // 0 bytes: a connection that is no /dev/fuse was closed
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT):
			// ENOENT: the request was interrupted while it was being copied.
		default:
			return 0, fmt.Errorf("read request: %w", os.NewSyscallError("read", err))
		}
	}
}

// awaitRequest blocks until there may be a request to read or the session ends.
func (s *server) awaitRequest(r *receiver) error {
	var events [2]unix.EpollEvent
	for {
		_, err := unix.EpollWait(r.epoll, events[:], -1)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("epoll_wait", err)
		}
	}
}

// write sends one reply.
func (s *server) write(msg []byte) error {
	for {
		_, err := unix.Write(s.fd, msg)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		return replyError(err)
	}
}

// replyError judges the outcome of writing a reply. A request that no longer
// exists, because its caller was killed, is no error.
func replyError(err error) error {
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case gone(err):
		return ErrUnmounted
	default:
		return fmt.Errorf("write reply: %w", os.NewSyscallError("write", err))
	}
}
