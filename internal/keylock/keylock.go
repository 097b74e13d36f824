package keylock

import (
	"context"
	"slices"
	"sync"
)

// Set is a set of named locks. The zero value is ready for use. All methods
// may be called concurrently; a Set must not be copied after its first use.
type Set struct {
	mu   sync.Mutex
	held map[string][]chan struct{} // guarded by mu: keys in use, with those who wait
}

// Lock waits until it holds every key and returns the function that releases
// them all, which may be called more than once. Keys are taken in ascending
// order, whatever the order of the arguments, so that two calls cannot wait
// for each other; a caller that already holds keys and asks for more has to
// keep to an order of its own. When ctx ends first, nothing is held and the
// error is that of ctx.
func (s *Set) Lock(ctx context.Context, keys ...string) (unlock func(), err error) {
	keys = slices.Compact(slices.Sorted(slices.Values(keys)))
	for i, key := range keys {
		if err := s.lock(ctx, key); err != nil {
			s.unlock(keys[:i])
			return nil, err
		}
	}
	return sync.OnceFunc(func() { s.unlock(keys) }), nil
}

// TryLock takes every key if nobody has any of them, and waits for none. It is for
// callers whose waits are bounded in time: what needs no wait is not to fail
// because its process got no processor for that long.
func (s *Set) TryLock(keys ...string) (unlock func(), free bool) {
	keys = slices.Compact(slices.Sorted(slices.Values(keys)))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		if _, inUse := s.held[key]; inUse {
			return nil, false
		}
	}
	if s.held == nil {
		s.held = make(map[string][]chan struct{})
	}
	for _, key := range keys {
		s.held[key] = nil
	}
	return sync.OnceFunc(func() { s.unlock(keys) }), true
}

func (s *Set) lock(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	turn := s.enqueue(key)
	if turn == nil {
		return nil
	}
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	if !s.leave(key, turn) {
		// The lock was handed over while ctx ended: pass it on.
		s.unlock([]string{key})
	}
	return ctx.Err()
}

// enqueue takes a free key and returns nil, or returns the channel that is
// closed when the caller's turn has come.
func (s *Set) enqueue(key string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiters, inUse := s.held[key]
	if !inUse {
		if s.held == nil {
			s.held = make(map[string][]chan struct{})
		}
		s.held[key] = nil
		return nil
	}
	turn := make(chan struct{})
	s.held[key] = append(waiters, turn)
	return turn
}

// leave gives up waiting; false if the lock had been handed over already.
func (s *Set) leave(key string, turn chan struct{}) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiters := s.held[key]
	i := slices.Index(waiters, turn)
	if i < 0 {
		return false
	}
	s.held[key] = slices.Delete(waiters, i, i+1)
	return true
}

func (s *Set) unlock(keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		waiters := s.held[key]
		if len(waiters) == 0 {
			delete(s.held, key)
			continue
		}
		s.held[key] = waiters[1:]
		close(waiters[0])
	}
}
