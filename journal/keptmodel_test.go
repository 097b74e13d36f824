package journal

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// keepPoint keeps the newest checkpoint from now on, or nothing any more.
func (w *world) keepPoint() error {
	at := Position{}
	if w.rng.IntN(6) > 0 {
		at = w.s.NewestCheckpoint().Position
	}
	w.m.held = true
	w.s.KeepPoint(at, 0)
	return nil
}

// maintainKept maintains, and makes sure that what is kept can be had.
func (w *world) maintainKept() error {
	if err := w.maintain(); err != nil {
		return err
	}
	at := w.s.KeptPoint()
	if at == (Position{}) {
		return nil
	}
	v, err := w.s.View(at)
	if err != nil {
		return fmt.Errorf("what is kept: %w", err)
	}
	return heldView{v, w.m.images[at]}.checkAndClose()
}

// crowd has others fill the disk, but for room for some writes.
func (w *world) crowd() error {
	total, free, err := w.mem.Space(".")
	if err == nil {
		w.mem.SetCapacity(total - free + 2*MinSegmentBytes)
	}
	return err
}

// onFull makes a step one that has room made where there is none, as an engine has, and
// where there is none to be made has others give theirs back.
func onFull(do func(w *world) error) func(w *world) error {
	return func(w *world) error {
		err := do(w)
		if errors.Is(err, ErrFull) {
			if _, err = w.s.Reclaim(context.Background()); err == nil {
				err = do(w)
			}
		}
		if errors.Is(err, ErrFull) {
			w.mem.SetCapacity(math.MaxInt64)
			err = do(w)
		}
		return err
	}
}
