package operator

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
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

// A group whose engine hangs may not take settings for as long as that does. The others are
// looked at meanwhile, and it is asked again.
func TestAGroupThatTakesNoSettingsIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane()
		p.add(1, "shop/one", "shop", "data")
		p.choosing = func(ctx context.Context) error {
			<-ctx.Done()
			return fmt.Errorf("%w and goes on; ask again: %w", controller.ErrBusy, ctx.Err())
		}
		k := &groupKeeper{fleet: p, catalog: p, events: events{silent{}}, log: slog.New(slog.DiscardHandler), applied: map[types.NamespacedName]application{}}
		resource := &v1alpha1.ConsistencyGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "one"}}
		caller, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began, st := time.Now(), group.State{Name: "shop/one", Role: group.RolePrimary}
		if got := k.apply(caller, resource, st); got.refused == nil || time.Since(began) > time.Minute {
			t.Errorf("refused %v after %s, want to be told within a minute", got.refused, time.Since(began))
		}
		p.choosing = nil
		if got := k.apply(caller, resource, st); got.refused != nil {
			t.Errorf("asked again: %v", got.refused)
		}
	})
}
