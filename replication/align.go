package replication

import (
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/journal"
)

// align moves a replica store onto the path of its source and returns where
// it then stands: the newest position of that path that the store holds. Ok
// is false when it holds none, so that the volume needs an image; at most a
// timeline of the source that the store had left is active again then.
//
// journal.Common of both active paths would find less: a store also holds the
// tails of timelines that it has left. After a rewind on the primary is
// undone, the path leads through such a tail again, and after a crash a
// recovered replica stands on a timeline of its own although it has
// everything of the source's. Only the replica knows its tails, so it is the
// side that decides.
//
// The newest timeline of the source's path that the replica knows is taken up
// again. If the replica holds more of it than the path goes through, the next
// timeline of the path, which forks there, is adopted too.
func align(store ReplicaStore, source *hello) (after journal.Position, ok bool, err error) {
	known := make(map[journal.TimelineID]bool)
	for _, t := range store.Timelines() {
		known[t.ID] = true
	}
	for i := len(source.path) - 1; i >= 0; i-- {
		run := source.path[i]
		if !known[run.Timeline] {
			continue
		}
		if store.Tip().Timeline != run.Timeline {
			if err := store.Adopt(source.timelines[run.Timeline]); notHeld(err) {
				continue
			} else if err != nil {
				return journal.Position{}, false, fmt.Errorf("take up timeline %s: %w", run.Timeline, err)
			}
		}
		tip := store.Tip()
		switch {
		case tip.Timeline != run.Timeline || tip.Seq+1 < run.First:
			// Left before the source's horizon: an older run is no better.
			return journal.Position{}, false, nil
		case tip.Seq <= run.Last:
			return tip, true, nil
		case i == len(source.path)-1:
			return journal.Position{}, false, fmt.Errorf("replica stands at %s, source at %s: %w", tip, source.path.Tip(), ErrAhead)
		}
		return leave(store, source, i)
	}
	return journal.Position{}, false, nil
}

// leave forks the store from run i of the source's path to run i+1.
func leave(store ReplicaStore, source *hello, i int) (after journal.Position, ok bool, err error) {
	next := source.timelines[source.path[i+1].Timeline]
	if err := store.Adopt(next); notHeld(err) {
		return journal.Position{}, false, nil
	} else if err != nil {
		return journal.Position{}, false, fmt.Errorf("adopt timeline %s: %w", next.ID, err)
	}
	return store.Tip(), true, nil
}

// notHeld reports whether Adopt found that the store does not reach there.
func notHeld(err error) bool {
	return errors.Is(err, journal.ErrUnknownPosition) || errors.Is(err, journal.ErrHorizon)
}
