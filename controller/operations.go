package controller

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

// maxOperations bounds the operations in progress; a call beyond it waits for
// its turn like one that meets a lock.
const maxOperations = 128

// operations are the goroutines that carry out changes. They outlive the
// calls that began them, and end at close.
type operations struct {
	slots chan struct{}
	stop  chan struct{} // closed by close

	mu     sync.Mutex // guards closed and failed, and orders wg.Add before wg.Wait
	closed bool
	// failed is how what was tried last has failed, by its first key: who asked for it may
	// have been gone by then. At most maxOperations.
	failed map[string]error
	wg     *sync.WaitGroup
}

func newOperations() operations {
	return operations{
		slots: make(chan struct{}, maxOperations),
		stop:  make(chan struct{}),
		wg:    &sync.WaitGroup{},
	}
}

func (o *operations) close() {
	o.mu.Lock()
	if !o.closed {
		o.closed = true
		close(o.stop)
	}
	o.mu.Unlock()
	o.wg.Wait()
}

// start runs fn in a goroutine, with a context that keeps the values of ctx
// but ends only at close.
func (o *operations) start(ctx context.Context, fn func(context.Context)) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return ErrClosed
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	finished := make(chan struct{})
	o.wg.Go(func() {
		select {
		case <-o.stop:
		case <-finished:
		}
		cancel()
	})
	o.wg.Go(func() {
		defer close(finished)
		fn(ctx)
	})
	return nil
}

// note keeps how an operation has ended.
func (o *operations) note(key string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.failed, key)
	if err == nil {
		return
	}
	for other := range o.failed {
		if len(o.failed) < maxOperations {
			break
		}
		delete(o.failed, other)
	}
	if o.failed == nil {
		o.failed = map[string]error{}
	}
	o.failed[key] = err
}

// withLast is the answer to who is to ask again, with how what was tried before has
// failed: nobody else would be told.
func (o *operations) withLast(key string, err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if last := o.failed[key]; last != nil && errors.Is(err, ErrBusy) {
		return fmt.Errorf("%w; what was tried before failed: %s", err, last.Error())
	}
	return err
}

// run carries out fn once it holds the locks of all keys, and returns its
// result. When ctx ends first, fn goes on, holding the locks, and the caller
// is told to ask again.
func run[R any](ctx context.Context, s *Server, keys []string, fn func(context.Context) (R, error)) (R, error) {
	var none R
	release, err := s.enter(ctx, keys)
	if err != nil {
		return none, s.ops.withLast(keys[0], err)
	}
	type result struct {
		value R
		err   error
	}
	done := make(chan result, 1)
	err = s.ops.start(ctx, func(ctx context.Context) {
		value, err := guard(ctx, fn)
		s.ops.note(keys[0], err)
		release()
		done <- result{value, err}
	})
	if err != nil {
		release()
		return none, err
	}
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		select {
		case r := <-done: // both at once
			return r.value, r.err
		default:
		}
		return none, s.ops.withLast(keys[0], fmt.Errorf("%w and goes on; ask again: %w", ErrBusy, ctx.Err()))
	}
}

// guard turns a panic of fn into its error: a broken invariant of one object
// must not end the process that serves the others.
func guard[R any](ctx context.Context, fn func(context.Context) (R, error)) (value R, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("internal error: %v\n%s", reason, debug.Stack())
		}
	}()
	return fn(ctx)
}

// enter takes a slot and the locks, waiting no longer than LockWait for those that
// others have.
func (s *Server) enter(ctx context.Context, keys []string) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeoutCause(ctx, s.cfg.LockWait, ErrBusy)
	defer cancel()
	select {
	case s.ops.slots <- struct{}{}:
	default:
		select {
		case s.ops.slots <- struct{}{}:
		case <-wait.Done():
			return nil, fmt.Errorf("wait for one of %d operations to end: %w", maxOperations, context.Cause(wait))
		}
	}
	unlock, free := s.locks.TryLock(keys...)
	if !free {
		unlock, err = s.locks.Lock(wait, keys...)
	}
	if err != nil {
		<-s.ops.slots
		if cause := context.Cause(wait); errors.Is(cause, ErrBusy) {
			err = cause
		}
		return nil, err
	}
	return func() {
		unlock()
		<-s.ops.slots
	}, nil
}

// Keys of locks. A call that needs several takes them at once, except that
// keyRetired may be taken while holding others and none is taken under it.
const keyRetired = "retired volumes"

func volumeKey(name string) string        { return "volume " + name }
func groupKey(name string) string         { return "group " + name }
func snapshotKey(name string) string      { return "snapshot " + name }
func groupSnapshotKey(name string) string { return "group snapshot " + name }
