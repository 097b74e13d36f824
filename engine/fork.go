package engine

import (
	"fmt"

	"github.com/lockstep-csi/lockstep/journal"
)

// ForkOnce begins a timeline at a position and makes it active, unless the
// active one was begun for the same reason already: so that an operation over
// several volumes can be repeated after a crash. Nobody may write meanwhile.
// Durable on return.
func (e *Engine) ForkOnce(at journal.Position, reason string) error {
	active := e.store.Tip().Timeline
	for _, line := range e.store.Timelines() {
		if line.ID == active && line.Reason == reason {
			return nil
		}
	}
	if _, err := e.store.Fork(at, reason); err != nil {
		return fmt.Errorf("fork volume %s: %w", e.Volume(), err)
	}
	return nil
}
