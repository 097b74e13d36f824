package enginepod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Names of two empty files on the backing volume, whose locks (flock(2)) order
// the engines of a volume on one machine. The kernel gives a lock back when its
// holder's process has ended, however it did.
const (
	// servingFile is locked by the engine that may have the store open.
	servingFile = "engine.lock"
	// nextFile is locked by the one that waits to be the next.
	nextFile = "engine.next"
)

// placeEvery is the time between two looks at a lock that another process has.
// It is part of the pause that a handover makes.
const placeEvery = 5 * time.Millisecond

// place is the right to have the store open. Whoever waits for it is the next:
// the engine before it can see that somebody waits, and the one behind it waits
// for both. So any number of processes may be started for a backing volume, in
// any order, and be killed at any moment: one serves, and another one follows
// as soon as it can.
type place struct {
	serving *os.File
	next    *os.File // open, and not locked by this process
}

// takePlace waits for the place of the engine that has the directory.
func takePlace(ctx context.Context, dir string) (*place, error) {
	p := &place{}
	var err error
	if p.next, err = openLock(filepath.Join(dir, nextFile)); err != nil {
		return nil, err
	}
	if p.serving, err = openLock(filepath.Join(dir, servingFile)); err != nil {
		return nil, errors.Join(err, p.next.Close())
	}
	err = awaitLock(ctx, p.next)
	if err == nil {
		err = awaitLock(ctx, p.serving)
	}
	if err == nil {
		err = unlock(p.next)
	}
	if err != nil {
		return nil, errors.Join(err, p.leave())
	}
	return p, nil
}

// awaited reports whether another process waits to be the next. An answer that
// the file system cannot give is no.
func (p *place) awaited() bool {
	locked, err := tryLock(p.next)
	if !locked {
		return err == nil
	}
	return unlock(p.next) != nil
}

// leave gives the place to who is next, if it was had.
func (p *place) leave() error { return errors.Join(p.next.Close(), p.serving.Close()) }

func openLock(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of the backing volume: %w", err)
	}
	return f, nil
}

func awaitLock(ctx context.Context, f *os.File) error {
	tick := time.NewTicker(placeEvery)
	defer tick.Stop()
	for {
		if locked, err := tryLock(f); locked || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the engine that has %s: %w", f.Name(), ctx.Err())
		}
	}
}

// tryLock locks a file unless another process has.
func tryLock(f *os.File) (locked bool, err error) {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		default:
			return false, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}

func unlock(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		return fmt.Errorf("unlock %s: %w", f.Name(), err)
	}
	return nil
}
