package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/internal/clock"
)

var (
	// ErrLost: another holder has taken the lease over. The engine ends.
	ErrLost = errors.New("lease was taken over")
	// ErrConflict: the record has another version than the one to replace.
	ErrConflict = errors.New("lease has changed")
)

// Store is where the record is.
type Store interface {
	// Get returns the record as it is stored, never an older one.
	Get(ctx context.Context) (Record, error)
	// Put replaces the record that has the version and returns the new one.
	// ErrConflict if it has another version; after any other error it may or
	// may not have been replaced.
	Put(ctx context.Context, holder, version string) (Record, error)
}

// Clock measures durations on one machine.
type Clock interface {
	// Uptime rises steadily, also while the machine is suspended.
	Uptime() time.Duration
	NewTimer(d time.Duration) clock.Timer
}

// Boot is the machine's clock: CLOCK_BOOTTIME of clock_gettime(2).
type Boot struct{ clock.Wall }

// Uptime implements Clock.
func (Boot) Uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err)) // every kernel since 2.6.39 has it
	}
	return time.Duration(ts.Nano())
}

// Keeper acquires and renews a lease. Valid and Await may be called
// concurrently with Run.
type Keeper struct {
	store Store
	clock Clock
	log   *slog.Logger

	mu      sync.Mutex // guards the fields below
	machine machine
	changed chan struct{} // closed and replaced when valid may have become true, or lost
}

// NewKeeper returns a contender for the lease. id names this process; after a
// restart of it in the same pod it is the same, and the lease is its own at
// once.
func NewKeeper(store Store, id string, c Clock, log *slog.Logger) *Keeper {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{store: store, clock: c, log: log, machine: machine{id: id}, changed: make(chan struct{})}
}

// Valid reports whether this process may write, now. Ask before each change,
// and before each touch of a file.
func (k *Keeper) Valid() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.machine.valid(k.clock.Uptime())
}

// Await returns when the lease is valid; ErrLost when it never will be again.
func (k *Keeper) Await(ctx context.Context) error {
	for {
		k.mu.Lock()
		valid, lost, changed := k.machine.valid(k.clock.Uptime()), k.machine.lost, k.changed
		k.mu.Unlock()
		switch {
		case valid:
			return nil
		case lost:
			return ErrLost
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Run acquires the lease and renews it until ctx ends, or returns ErrLost.
// While nobody answers, it tries on: the lease may still be this process's.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		next := k.next()
		var err error
		switch next.kind {
		case end:
			return ErrLost
		case wait:
			err = k.sleep(ctx, next.at)
		case read:
			err = k.read(ctx)
		case write:
			err = k.write(ctx, next.from)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			k.log.Warn("lease request failed", "error", err)
		}
	}
}

// Release gives the lease up, after Run has ended and everything is closed, so
// that the next holder need not wait. No error if it is not held.
func (k *Keeper) Release(ctx context.Context) error {
	k.mu.Lock()
	held, version := k.machine.held, k.machine.seen.Version
	k.machine.held = false // whatever comes of it
	k.mu.Unlock()
	if !held {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, RequestTimeout)
	defer cancel()
	if _, err := k.store.Put(ctx, "", version); err != nil {
		return fmt.Errorf("release lease: %w", err)
	}
	return nil
}

func (k *Keeper) next() action {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.machine.next(k.clock.Uptime())
}

func (k *Keeper) sleep(ctx context.Context, until time.Duration) error {
	timer := k.clock.NewTimer(until - k.clock.Uptime())
	defer timer.Stop()
	select {
	case <-timer.C():
	case <-ctx.Done():
	}
	return nil
}

func (k *Keeper) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, RequestTimeout)
	defer cancel()
	found, err := k.store.Get(ctx)
	k.change(func(m *machine, now time.Duration) {
		if err != nil {
			m.failed(now)
			return
		}
		m.wasRead(now, found)
	})
	return err
}

func (k *Keeper) write(ctx context.Context, from string) error {
	ctx, cancel := context.WithTimeout(ctx, RequestTimeout)
	defer cancel()
	started := k.clock.Uptime()
	written, err := k.store.Put(ctx, k.machine.id, from)
	k.change(func(m *machine, now time.Duration) {
		switch {
		case err == nil:
			m.wasWritten(started, now, written)
		case errors.Is(err, ErrConflict):
			m.wasOvertaken(now)
		default:
			m.failed(now)
		}
	})
	return err
}

// change applies an answer and wakes who waits.
func (k *Keeper) change(apply func(*machine, time.Duration)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	apply(&k.machine, k.clock.Uptime())
	close(k.changed)
	k.changed = make(chan struct{})
}
