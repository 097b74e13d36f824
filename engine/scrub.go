package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

// repairPatience is how long a peer may take to help with all that a scrub has found. A
// replica's questions wait for its primary's next call, up to 30 s.
const repairPatience = time.Minute

// Scrub says how a volume is to be scrubbed at once.
type Scrub struct {
	Clock clock.Clock
	// Peer is the site that has the other copy of the volume; empty: there is none.
	Peer string
	// Repair is asked once all was read: whether the peer is to be asked for what is
	// damaged, and what the store can mend by itself to be mended.
	Repair func() bool
	// Told is called now and then. It must not wait.
	Told func(ScrubStep)
}

// ScrubStep is how far a scrub is that somebody waits for.
type ScrubStep struct {
	ReadBytes, TotalBytes int64 // TotalBytes is an estimate
	Damaged               int   // places so far
	Repairing             bool  // all was read
}

// Scrubbed is what came of a scrub.
type Scrubbed struct {
	ReadBytes int64
	Damaged   []journal.DamagedPlace // that is left
	Repaired  []journal.RepairedPlace
	Peer      string // the site that was asked; empty: none
	PeerErr   error  // why it could not be asked, or was not in time
}

// Scrub reads all that the store has and compares it with its checksums. The volume
// serves meanwhile. When ctx ends the pass goes on in the scrub's own time; the store
// has to stay open until Scrub returns. Errors are those of journal.Store.ScrubNow: that
// something is damaged is none.
func (e *Engine) Scrub(ctx context.Context, how Scrub) (Scrubbed, error) {
	began := how.Clock.Now()
	var step ScrubStep
	err := e.store.ScrubNow(ctx, func(read, total int64) {
		step.ReadBytes, step.TotalBytes, step.Damaged = read, total, e.store.Stats().Damaged
		how.Told(step)
	})
	if err != nil {
		return Scrubbed{}, fmt.Errorf("scrub volume %s: %w", e.Volume(), err)
	}
	out := Scrubbed{ReadBytes: e.store.ScrubbedBytes()}
	if step.Damaged = e.store.Stats().Damaged; how.Repair() && step.Damaged > 0 {
		step.Repairing = true
		how.Told(step)
		if err := e.repairNow(ctx, how.Peer, &out); err != nil {
			return Scrubbed{}, fmt.Errorf("repair volume %s: %w", e.Volume(), err)
		}
	}
	out.Damaged, out.Repaired = e.store.DamagedPlaces(), e.store.Repaired(began)
	if len(out.Repaired) > 0 {
		out.Peer = how.Peer // also where the store was faster by itself, and asked it
	}
	return out, nil
}

// repairNow has what is damaged repaired, as far as that can be.
func (e *Engine) repairNow(ctx context.Context, peer string, out *Scrubbed) error {
	out.Peer = peer
	waiting, cancel := context.WithTimeout(ctx, repairPatience)
	defer cancel()
	err := e.store.RepairNow(waiting, peer != "")
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		out.PeerErr = fmt.Errorf("site %s was not asked, or did not answer, within %v", peer, repairPatience)
		return nil
	}
	return err
}
