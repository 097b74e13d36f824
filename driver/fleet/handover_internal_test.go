package fleet

import (
	"context"
	"testing"

	"github.com/lockstep-csi/lockstep/engine/control"
)

// handing counts the handovers that it is asked for.
type handing struct {
	Engines
	over, upgrades int
}

func (h *handing) HandOver(context.Context, EngineSpec) error {
	h.over++
	return nil
}

func (h *handing) Upgrade(context.Context, EngineSpec) error {
	h.upgrades++
	return nil
}

// An upgrade that was decided is for the engine that was outdated then, while nobody
// uses it.
func TestAnUpgradeIsForTheEngineItWasDecidedFor(t *testing.T) {
	for _, c := range []struct {
		name     string
		template string
		holds    int
		want     int
	}{
		{"the engine", "old", 0, 1},
		{"its successor", "new", 0, 0},
		{"the engine, in use", "old", 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			engines := &handing{}
			f := &Fleet{cfg: Config{Engines: engines}}
			v := &volume{client: &control.Client{}, outdated: true, template: c.template, holds: c.holds}
			f.upgrades = upgrades{under: v, from: "old"}
			h := f.newHandover(t.Context(), v)
			h.consider(plan{run: true})
			h.giveUp()
			if engines.upgrades != c.want {
				t.Errorf("%d upgrades, want %d", engines.upgrades, c.want)
			}
			if v.outdated || c.want == 0 && f.upgrades.under != nil {
				t.Errorf("it is still waited for: %v, %+v", v.outdated, f.upgrades)
			}
		})
	}
}

// An engine that nobody uses, and that says that it leaves just after it was decided to
// keep it for a while, gets no successor by that decision.
func TestAPlanKnowsOfTheEngineThatLeaves(t *testing.T) {
	engines := &handing{}
	f := &Fleet{cfg: Config{Engines: engines}}
	v := &volume{client: &control.Client{}}
	h := f.newHandover(t.Context(), v)
	kept := plan{run: true}
	v.state = control.State{Incarnation: "a", Leaving: true}
	h.consider(kept)
	if h.stop != nil {
		t.Error("a handover was begun for a plan that knows of no engine that leaves")
		h.giveUp()
	}
	kept.leaving = "a"
	for range 2 { // one answer to each engine that leaves
		h.consider(kept)
		h.giveUp()
	}
	if engines.over != 1 {
		t.Errorf("%d handovers, want 1", engines.over)
	}
}
