package journal

import (
	"fmt"
	"maps"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

const maxPinNameBytes = 1024

// Pin keeps a position: the horizon does not pass it until Unpin. Nothing is
// copied for it; once it has left the window it takes the room of what differs
// there from the pin before it (see thinpast.go). The position must be durable and
// inside the horizon, the name 1 to 1024 bytes long. The same name and position
// again is no change; another position is ErrPinExists. Durable on return.
//
// Where a checkpoint is there its record is kept with it, unless destage has taken that already, or is
// about to: for an operation, which has its position written down, that makes no difference.
func (s *Store) Pin(name string, at Position) error { return s.pinAt(name, 0, at) }

// PinCheckpoint is Pin of a checkpoint that is to be found by the pin: ErrHorizon where no list has it
// any more, as HoldCheckpoint.
func (s *Store) PinCheckpoint(name string, number CheckpointNumber, at Position) error {
	return s.pinAt(name, number, at)
}

// pinAt is Pin, with a number other than 0 PinCheckpoint.
func (s *Store) pinAt(name string, number CheckpointNumber, at Position) error {
	if name == "" || len(name) > maxPinNameBytes {
		return fmt.Errorf("pin %s: name of %d bytes, want 1 to %d: %w", at, len(name), maxPinNameBytes, ErrRange)
	}
	s.mu.RLock()
	err := s.usable()
	if err == nil {
		_, err = s.tree.path(s.state.Horizon, at)
	}
	if err == nil {
		err = s.checkOpenLocked(at)
	}
	if err == nil && number != 0 {
		err = s.checkListedLocked(number, at)
	}
	if err == nil && at.Timeline == s.state.Active && at.Seq > s.durable.Seq {
		err = fmt.Errorf("not durable yet: %w", ErrUnknownPosition)
	}
	var h *hold
	if err == nil {
		h = s.addHold(hold{at: at, record: true}) // until the pin itself holds the horizon
	}
	s.mu.RUnlock()
	if err != nil {
		return fmt.Errorf("pin %q at %s: %w", name, at, err)
	}
	defer s.dropHold(h)
	return s.changePins(func(tx kv.Tx) error { return s.writePin(tx, name, at) }, func() { s.pins[name] = at })
}

// writePin runs where one change of the pins runs at a time, so that two
// calls with one name cannot both find it free.
func (s *Store) writePin(tx kv.Tx, name string, at Position) error {
	s.mu.RLock()
	old, exists := s.pins[name]
	s.mu.RUnlock()
	if exists && old != at {
		return fmt.Errorf("pin %q at %s: it holds %s: %w", name, at, old, ErrPinExists)
	}
	return s.cat.savePin(tx, name, at)
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
	s.letGo()
	s.wakeRun()
	return nil
}

// Pins returns the pins by name.
func (s *Store) Pins() map[string]Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return maps.Clone(s.pins)
}
