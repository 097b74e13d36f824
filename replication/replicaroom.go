package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/journal"
)

// A replica on a full disk gives up what its store can do without, as a primary
// does before it refuses a write. Only then it refuses, which ends the stream: its
// points stay, and its source goes on without it. As long as nothing has changed a
// new stream is refused at once, and nothing is sent in vain.

// append appends records that follow the tip. A batch may need several segments, and
// room for each of them.
func (r *replica) append(ctx context.Context, records []journal.Record) error {
	for hopeful := true; ; hopeful = false {
		before := r.store.Tip().Seq
		err := r.store.AppendRecords(records)
		if !errors.Is(err, journal.ErrFull) {
			return err
		}
		done := r.store.Tip().Seq - before
		if records = records[done:]; done == 0 && !hopeful {
			return err
		}
		if _, reclaimErr := r.store.Reclaim(ctx); reclaimErr != nil {
			return errors.Join(err, reclaimErr)
		}
	}
}

// withRoom calls change, and once more if there was no room and some could be made.
func (r *replica) withRoom(ctx context.Context, change func() error) error {
	err := change()
	if !errors.Is(err, journal.ErrFull) {
		return err
	}
	if _, reclaimErr := r.store.Reclaim(ctx); reclaimErr != nil {
		return errors.Join(err, reclaimErr)
	}
	return change()
}

// roomForNext makes room where there was none for a leap, which is given up by then and
// begun anew by a later stream.
func (r *replica) roomForNext(ctx context.Context, err error) error {
	if !errors.Is(err, journal.ErrFull) {
		return err
	}
	_, reclaimErr := r.store.Reclaim(ctx)
	return errors.Join(err, reclaimErr)
}

// refuseInVain ends a stream of records before it begins, where the store has no room
// for them and nothing has changed since that was found.
func (r *replica) refuseInVain(records bool) error {
	if !records {
		return nil // an image takes the store's place
	}
	if err := r.store.Lacks(); err != nil {
		return fmt.Errorf("replica of volume %s: %w", r.hello.volume, err)
	}
	return nil
}
