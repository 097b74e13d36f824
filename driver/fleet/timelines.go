package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/journal"
)

// engineWait is how long an engine may take to answer somebody who asks what it alone
// knows, its start included. It is less than a command waits by itself.
const engineWait = 45 * time.Second

// VolumeTimelines are the timelines of a volume, or why they are not known.
type VolumeTimelines struct {
	Volume journal.VolumeID
	control.Timelines
	Err error
}

// Timelines asks the engines of volumes, all at once, for their timelines: nobody else
// knows what those take and what keeps them. An engine that rests is started for it. The
// answers are in the order of ids, each with its own error.
func (f *Fleet) Timelines(ctx context.Context, ids []journal.VolumeID) []VolumeTimelines {
	all := make([]VolumeTimelines, len(ids))
	var asking sync.WaitGroup
	for i, id := range ids {
		asking.Go(func() {
			all[i].Volume = id
			all[i].Timelines, all[i].Err = f.timelinesOf(ctx, id)
		})
	}
	asking.Wait()
	return all
}

func (f *Fleet) timelinesOf(ctx context.Context, id journal.VolumeID) (control.Timelines, error) {
	v, err := f.volumeOf(id)
	if err != nil {
		return control.Timelines{}, err
	}
	defer f.hold(v)()
	client, err := f.awaitEngine(ctx, v)
	if err != nil {
		return control.Timelines{}, err
	}
	return client.Timelines(ctx)
}

// awaitEngine is served for who wants an answer within engineWait, and returns the
// engine: ErrNoEngine, with what keeps it from answering. Hold it meanwhile.
func (f *Fleet) awaitEngine(ctx context.Context, v *volume) (*control.Client, error) {
	waiting, cancel := context.WithTimeout(ctx, engineWait)
	defer cancel()
	_, err := f.served(waiting, v)
	if err == nil {
		var client *control.Client
		if client, err = f.connected(waiting, v); err == nil {
			return client, nil
		}
	}
	if waiting.Err() != nil && ctx.Err() == nil && !errors.Is(err, ErrNoEngine) {
		err = fmt.Errorf("%w: %w", ErrNoEngine, err) // it is busy with its orders
	}
	return nil, err
}
