package operator

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
)

// A move that waits for an engine is tried again soon, and not ever more rarely.
func TestAMoveWithoutAnEngineIsTriedAgain(t *testing.T) {
	p := newPlane()
	p.add(1, "one", "shop", "data")
	p.moving = func(context.Context) error { return fmt.Errorf("it is not scheduled: %w", fleet.ErrNoEngine) }
	m := &membership{fleet: p, catalog: p, events: events{silent{}}, log: slog.New(slog.DiscardHandler)}
	result, err := m.move(t.Context(), claimNamed("data"), id(1), "one", "two")
	if err != nil || result.RequeueAfter != moveRetry {
		t.Errorf("%+v, %v, want another attempt after %s", result, err, moveRetry)
	}
	p.moving = nil
	if result, err := m.move(t.Context(), claimNamed("data"), id(1), "one", "two"); err != nil || result.RequeueAfter != 0 || p.moves != 1 {
		t.Errorf("with the engine there: %+v, %v, %d moves", result, err, p.moves)
	}
}
