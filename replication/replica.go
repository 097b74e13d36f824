package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

// replica is the receiving side of one volume's stream: a state machine
// without goroutines, timers or connection. Its life is open, then handle for
// each message, and settle whenever the messages at hand are handled. The
// caller holds the volume's pass during each call.
type replica struct {
	hello  hello
	stores ReplicaStores
	codec  *codec
	images *partialImages

	store   ReplicaStore // nil until the first image is complete
	ready   bool         // store stands on the source's path
	image   *partialImage
	leaping bool   // the messages at hand are a leap's
	number  uint64 // of the newest data message handled
	settled uint64 // that an ack was made for
	fresh   bool   // store has appended records that are not flushed
	broken  error  // handle failed; nothing more is taken
}

// open finds the volume's store, moves it onto the source's path and answers
// hello.
func (r *replica) open(ctx context.Context, creditBytes int64) (*replicationv1.ReplicaMessage, error) {
	welcome := &replicationv1.Welcome{Version: ProtocolVersion, CreditBytes: creditBytes, Leaps: true}
	store, err := r.stores.Replica(ctx, r.hello.group, r.hello.volume)
	switch {
	case errors.Is(err, ErrNoReplica):
	case err != nil:
		return nil, fmt.Errorf("open replica of volume %s: %w", r.hello.volume, err)
	default:
		r.store = store
		// What an earlier stream appended and did not flush counts only once
		// it is durable.
		if err := store.Flush(ctx); err != nil {
			return nil, fmt.Errorf("flush replica of volume %s: %w", r.hello.volume, err)
		}
		var after journal.Position
		var ok bool
		err := r.withRoom(ctx, func() (err error) {
			after, ok, err = align(store, &r.hello)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("align replica of volume %s: %w", r.hello.volume, err)
		}
		if err := r.refuseInVain(ok); err != nil {
			return nil, err
		}
		if r.ready = ok; ok {
			welcome.After = encodePosition(after)
		}
		if from, through, leaping := store.Leap(); leaping && ok && from == after {
			welcome.Leap = &replicationv1.PartialLeap{Through: uint64(through)}
		}
	}
	// Offered also where it may not be needed: that is for the source to find out.
	if partial := r.images.of(r.hello.volume); partial != nil {
		welcome.Partial = &replicationv1.PartialImage{At: encodePosition(partial.spec.At), NextOffset: partial.next}
	}
	return &replicationv1.ReplicaMessage{Message: &replicationv1.ReplicaMessage_Welcome{Welcome: welcome}}, nil
}

// handle takes one data message. After an error the stream is over; the
// message that caused it changed nothing, except that of a batch a prefix may
// have been appended when the store itself failed.
func (r *replica) handle(ctx context.Context, m *replicationv1.SourceMessage) error {
	if r.broken == nil {
		r.broken = r.dispatch(ctx, m)
	}
	return r.broken
}

func (r *replica) dispatch(ctx context.Context, m *replicationv1.SourceMessage) error {
	var number uint64
	var act func() error
	switch m := m.GetMessage().(type) {
	case *replicationv1.SourceMessage_Batch:
		number, act = m.Batch.GetNumber(), func() error { return r.batch(ctx, m.Batch) }
	case *replicationv1.SourceMessage_LeapStart:
		number, act = m.LeapStart.GetNumber(), func() error { return r.startLeap(ctx, m.LeapStart) }
	case *replicationv1.SourceMessage_LeapEnd:
		number, act = m.LeapEnd.GetNumber(), func() error { return r.endLeap(ctx, m.LeapEnd) }
	case *replicationv1.SourceMessage_Fork:
		number, act = m.Fork.GetNumber(), func() error { return r.fork(ctx, m.Fork) }
	case *replicationv1.SourceMessage_ImageStart:
		number, act = m.ImageStart.GetNumber(), func() error { return r.startImage(ctx, m.ImageStart) }
	case *replicationv1.SourceMessage_Chunk:
		number, act = m.Chunk.GetNumber(), func() error { return r.chunk(m.Chunk) }
	case *replicationv1.SourceMessage_ImageEnd:
		number, act = m.ImageEnd.GetNumber(), func() error { return r.endImage(ctx) }
	default:
		return fmt.Errorf("message of unknown kind %T: %w", m, ErrProtocol)
	}
	// The transport keeps order; this finds a message that was lost,
	// repeated or exchanged by anything between two sites that does not.
	if number != r.number+1 {
		return fmt.Errorf("message %d follows %d: %w", number, r.number, ErrProtocol)
	}
	if err := act(); err != nil {
		return err
	}
	r.number = number
	return nil
}

// appendable tells why records cannot be taken now.
func (r *replica) appendable() error {
	if r.image != nil || !r.ready {
		return fmt.Errorf("records come before the image is complete: %w", ErrProtocol)
	}
	if r.leaping {
		return fmt.Errorf("the leap is not complete: %w", ErrProtocol)
	}
	return nil
}

func (r *replica) batch(ctx context.Context, m *replicationv1.Batch) error {
	if r.leaping {
		return r.leapBatch(ctx, m)
	}
	if err := r.appendable(); err != nil {
		return err
	}
	records, err := r.codec.decodeBatch(m, r.hello.volume, false)
	if err != nil {
		return err
	}
	tip := r.store.Tip()
	if first := records[0].Position; first.Timeline != tip.Timeline || first.Seq != tip.Seq+1 {
		return fmt.Errorf("record %s does not follow %s: %w", first, tip, journal.ErrGap)
	}
	if err := r.dropPartial(); err != nil {
		return err
	}
	r.fresh = true
	if err := r.append(ctx, records); err != nil {
		return fmt.Errorf("append to volume %s: %w", r.hello.volume, err)
	}
	return nil
}

// fork adopts a timeline that begins where the store stands. One that the
// store knows, because the primary undid a rewind meanwhile, would be taken up
// behind records that the source is about to send: align sorts that out.
func (r *replica) fork(ctx context.Context, m *replicationv1.Fork) error {
	if err := r.appendable(); err != nil {
		return err
	}
	t, err := decodeTimeline(m.GetTimeline())
	if err != nil {
		return err
	}
	if tip := r.store.Tip(); t.Parent != tip {
		return fmt.Errorf("timeline %s forks at %s, not at %s: %w", t.ID, t.Parent, tip, journal.ErrGap)
	}
	if slices.ContainsFunc(r.store.Timelines(), func(known journal.Timeline) bool { return known.ID == t.ID }) {
		return fmt.Errorf("fork to timeline %s: %w", t.ID, ErrRealign)
	}
	if err := r.withRoom(ctx, func() error { return r.store.Adopt(t) }); err != nil {
		return fmt.Errorf("adopt timeline %s: %w", t.ID, err)
	}
	r.fresh = true
	return nil
}

// settle makes what was handled durable and returns its ack; nil when there
// is nothing new. After an error the stream is over.
func (r *replica) settle(ctx context.Context) (*replicationv1.ReplicaMessage, error) {
	if r.broken != nil {
		return nil, r.broken
	}
	if r.number == r.settled {
		return nil, nil
	}
	ack := &replicationv1.Ack{Number: r.number}
	if r.image == nil && !r.leaping {
		if r.fresh {
			if err := r.store.Flush(ctx); err != nil {
				r.broken = fmt.Errorf("flush replica of volume %s: %w", r.hello.volume, err)
				return nil, r.broken
			}
			r.fresh = false
		}
		ack.Durable = encodePosition(r.store.Durable())
	}
	r.settled = r.number
	return &replicationv1.ReplicaMessage{Message: &replicationv1.ReplicaMessage_Ack{Ack: ack}}, nil
}
