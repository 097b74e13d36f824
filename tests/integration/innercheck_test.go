package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

var innerTime = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// innerViews is how many past positions are opened in each crash image.
const innerViews = 4

// checkCrashed opens the store of a crash image and compares it with what the
// store that was crashed had promised by then: it opens without damage, has
// all that was durable when the image's marker was set, is a prefix of the
// writes in their order, and holds no more than what was written before the
// next promise. It must also be of further use.
func (in *innerStore) checkCrashed(ctx context.Context, dir string, rng *rand.Rand) error {
	m, err := readMarker(dir)
	if err != nil {
		return fmt.Errorf("read marker: %w", err)
	}
	cfg := innerConfig(dir)
	report, err := journal.Verify(ctx, cfg)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if !report.OK() {
		return fmt.Errorf("damage: %+v", report.Damage)
	}
	s, err := journal.Open(cfg)
	if err != nil {
		return err
	}
	image, err := in.checkState(s, m, rng)
	if err != nil {
		return errors.Join(fmt.Errorf("marker %d: %w", m, err), s.Close())
	}
	return goOn(ctx, cfg, s, image)
}

// checkState compares an opened store with the oracle and returns its content.
func (in *innerStore) checkState(s *journal.Store, m int, rng *rand.Rand) ([]byte, error) {
	least, most := in.bounds(m)
	tip := s.Tip()
	state, known := in.index[tip]
	switch {
	case !known:
		return nil, fmt.Errorf("the tip is %s, where the store never was", tip)
	case state < least.state:
		return nil, fmt.Errorf("the tip is state %d, and %d was durable", state, least.state)
	case state > most.state:
		return nil, fmt.Errorf("the tip is state %d, and only %d had been written", state, most.state)
	}
	if pins := s.Pins(); !maps.Equal(pins, least.pins) && !maps.Equal(pins, most.pins) {
		return nil, fmt.Errorf("the pins are %v, want %v or %v", pins, least.pins, most.pins)
	}
	image := make([]byte, innerBytes)
	if err := s.ReadAt(image, 0); err != nil {
		return nil, err
	}
	if !bytes.Equal(image, in.states[state].image) {
		return nil, fmt.Errorf("the volume at %s does not hold what was written up to there", tip)
	}
	return image, in.checkPast(s, rng)
}

// bounds are what a store must have, and the most that it can have, in an
// image whose marker is m.
func (in *innerStore) bounds(m int) (least, most promise) {
	least, most = in.promises[m], in.promises[min(m+1, len(in.promises)-1)]
	// What was written after the promise and before the next one, which may be
	// about pins only, up to the next that moved on.
	for next := m + 1; next < len(in.promises) && most.state == least.state; next++ {
		most.state = in.promises[next].state
	}
	return least, most
}

// checkPast opens the pinned positions and some others.
func (in *innerStore) checkPast(s *journal.Store, rng *rand.Rand) error {
	past := in.opens(s)
	rng.Shuffle(len(past), func(i, j int) { past[i], past[j] = past[j], past[i] })
	past = past[:min(len(past), innerViews)]
	for _, at := range s.Pins() {
		past = append(past, at)
	}
	for _, at := range past {
		state, known := in.index[at]
		if !known {
			return fmt.Errorf("a pin is at %s, where the store never was", at)
		}
		v, err := s.View(at)
		if err != nil {
			return fmt.Errorf("view at %s: %w", at, err)
		}
		image := make([]byte, innerBytes)
		if err := errors.Join(v.ReadAt(image, 0), v.Close()); err != nil {
			return fmt.Errorf("view at %s: %w", at, err)
		}
		if !bytes.Equal(image, in.states[state].image) {
			return fmt.Errorf("the view at %s does not hold what was written up to there", at)
		}
	}
	return nil
}

// goOn writes to a recovered store, and opens it once more.
func goOn(ctx context.Context, cfg journal.Config, s *journal.Store, image []byte) error {
	p := bytes.Repeat([]byte("on"), journal.SectorBytes/2)
	copy(image[journal.SectorBytes:], p)
	if _, err := s.Write(p, journal.SectorBytes); err != nil {
		return errors.Join(fmt.Errorf("go on: %w", err), s.Close())
	}
	if err := errors.Join(s.Flush(ctx), s.Maintain(ctx), s.Close()); err != nil {
		return fmt.Errorf("go on: %w", err)
	}
	report, err := journal.Verify(ctx, cfg)
	if err == nil && !report.OK() {
		err = fmt.Errorf("damage: %+v", report.Damage)
	}
	if err != nil {
		return fmt.Errorf("verify after going on: %w", err)
	}
	s, err = journal.Open(cfg)
	if err != nil {
		return fmt.Errorf("open after going on: %w", err)
	}
	got := make([]byte, len(image))
	if err := errors.Join(s.ReadAt(got, 0), s.Close()); err != nil {
		return fmt.Errorf("read after going on: %w", err)
	}
	if !bytes.Equal(got, image) {
		return errors.New("after going on the volume does not hold what was written")
	}
	return nil
}
