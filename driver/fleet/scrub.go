package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/journal"
)

// ErrScrubEnded means that an engine ended, or its node, before the scrub was through.
// It has no result; the next engine goes on with it in its own time.
var ErrScrubEnded = errors.New("its engine ended in the middle of the scrub, which the next one goes on with in its own time")

// Scrub has a volume's engine read all of its store, as control.Client.Scrub. One that
// rests is started for it, and none is upgraded or stopped for want of use meanwhile;
// attachments, and who drains a node, come first. ErrNoEngine if it does not answer
// within engineWait; ErrScrubEnded.
func (f *Fleet) Scrub(ctx context.Context, id journal.VolumeID, repair bool, told func(engine.ScrubStep)) (engine.Scrubbed, error) {
	v, err := f.volumeOf(id)
	if err != nil {
		return engine.Scrubbed{}, err
	}
	defer f.hold(v)()
	client, err := f.awaitEngine(ctx, v)
	if err != nil {
		return engine.Scrubbed{}, err
	}
	// A connection whose engine is gone, or whose node says nothing any more, ends, and
	// all calls on it with it.
	done, err := client.Scrub(ctx, repair, told)
	if err != nil && ctx.Err() == nil && (connectionLost(err) || errors.Is(err, engine.ErrClosed)) {
		r := f.recordOf(v)
		return done, fmt.Errorf("%s: %w: %w", r.title(), ErrScrubEnded, err)
	}
	return done, err
}
