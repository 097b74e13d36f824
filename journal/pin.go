package journal

import (
	"fmt"
	"maps"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// Pin keeps a position: the horizon does not pass it until Unpin. The position
// must be durable and inside the horizon. The same name and position again is
// no change; another position is ErrPinExists. Durable on return.
func (s *Store) Pin(name string, at Position) error {
	if name == "" {
		return fmt.Errorf("pin %s: no name", at)
	}
	s.mu.RLock()
	old, exists := s.pins[name]
	err := s.usable()
	if err == nil && !exists {
		_, err = s.tree.path(s.state.Horizon, at)
	}
	if err == nil && at.Timeline == s.state.Active && at.Seq > s.durable.Seq {
		err = fmt.Errorf("not durable yet: %w", ErrUnknownPosition)
	}
	var h *hold
	if err == nil && !exists {
		h = s.addHold(at) // until the pin itself holds the horizon
	}
	s.mu.RUnlock()
	switch {
	case err != nil:
		return fmt.Errorf("pin %q at %s: %w", name, at, err)
	case exists && old != at:
		return fmt.Errorf("pin %q at %s: it holds %s: %w", name, at, old, ErrPinExists)
	case exists:
		return nil
	}
	defer s.dropHold(h)
	return s.changePins(func(tx kv.Tx) error { return putJSON(tx, bucketPins, []byte(name), at) },
		func() { s.pins[name] = at })
}

// Unpin lets go of a pin; no error if there is none. Durable on return.
func (s *Store) Unpin(name string) error {
	return s.changePins(func(tx kv.Tx) error { return tx.Delete(bucketPins, []byte(name)) },
		func() { delete(s.pins, name) })
}

func (s *Store) changePins(write func(tx kv.Tx) error, apply func()) error {
	s.mu.RLock()
	err := s.usable()
	s.mu.RUnlock()
	if err == nil {
		err = s.changeState(func(*catalogState) {}, write, apply)
	}
	if err != nil {
		return fmt.Errorf("change pins of volume %s: %w", s.volume, err)
	}
	s.wakeRun()
	return nil
}

// Pins returns the pins by name.
func (s *Store) Pins() map[string]Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return maps.Clone(s.pins)
}
