package replication

import (
	"context"
	"fmt"
	"slices"
	"time"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

// startLeap begins a leap from where the store stands, or takes up the one that
// an earlier stream began. What was appended before is made durable first: acks
// carry no position until the leap is whole.
func (r *replica) startLeap(ctx context.Context, m *replicationv1.LeapStart) error {
	if err := r.appendable(); err != nil {
		return err
	}
	tip, from := r.store.Tip(), decodePosition(m.GetFrom())
	if from != tip {
		return fmt.Errorf("leap begins at %s, not at %s: %w", from, tip, journal.ErrGap)
	}
	if m.GetInterval() <= 0 {
		return fmt.Errorf("leap over history thinned to %d ns: %w", m.GetInterval(), ErrProtocol)
	}
	if r.fresh {
		if err := r.store.Flush(ctx); err != nil {
			return fmt.Errorf("flush replica of volume %s: %w", r.hello.volume, err)
		}
		r.fresh = false
	}
	if err := r.dropPartial(); err != nil {
		return err
	}
	if through := journal.Seq(m.GetThrough()); through > 0 {
		at, there, ok := r.store.Leap()
		if !ok { // it was there when the stream was opened: something has ended it since
			return fmt.Errorf("go on with the leap from %s: %w", from, ErrRealign)
		}
		if at != from || there != through {
			return fmt.Errorf("leap from %s goes on behind seq %d, which is not what is here: %w", from, through, ErrProtocol)
		}
	} else if err := r.store.BeginLeap(time.Duration(m.GetInterval())); err != nil {
		return fmt.Errorf("begin leap of volume %s: %w", r.hello.volume, err)
	}
	r.leaping = true
	return nil
}

// leapBatch adds records that survived between where the store stands and where
// the leap ends.
func (r *replica) leapBatch(ctx context.Context, m *replicationv1.Batch) error {
	records, err := r.codec.decodeBatch(m, r.hello.volume, true)
	if err != nil {
		return err
	}
	if err := r.store.AppendLeap(records); err != nil {
		return fmt.Errorf("leap of volume %s: %w", r.hello.volume, r.roomForNext(ctx, err))
	}
	return nil
}

// endLeap makes the leap's records the store's, durably.
func (r *replica) endLeap(ctx context.Context, m *replicationv1.LeapEnd) error {
	if !r.leaping {
		return fmt.Errorf("leap ends that did not start: %w", ErrProtocol)
	}
	var line *journal.Timeline
	if m.GetTimeline() != nil {
		t, err := decodeTimeline(m.GetTimeline())
		if err != nil {
			return err
		}
		if slices.ContainsFunc(r.store.Timelines(), func(known journal.Timeline) bool { return known.ID == t.ID }) {
			return fmt.Errorf("leap to timeline %s: %w", t.ID, ErrRealign)
		}
		line = &t
	}
	if err := r.store.EndLeap(decodePosition(m.GetAt()), line); err != nil {
		return fmt.Errorf("end leap of volume %s: %w", r.hello.volume, r.roomForNext(ctx, err))
	}
	r.leaping = false
	return nil
}
