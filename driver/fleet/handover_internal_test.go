package fleet

import (
	"context"
	"testing"

	"github.com/lockstep-csi/lockstep/engine/control"
)

// handing counts the handovers that it is asked for.
type handing struct {
	Engines
	over int
}

func (h *handing) HandOver(context.Context, EngineSpec) error {
	h.over++
	return nil
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
