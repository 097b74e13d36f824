package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// workers is the goroutines of a Sender: one per announced member. It is used
// by the goroutine of Run.
type workers struct {
	sender  *Sender
	running map[journal.VolumeID]*worker
	term    group.Term
	// refused has a token when a peer refused a stream for a reason that the
	// next announcement clears up.
	refused chan struct{}
}

// worker is one of them.
type worker struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func newWorkers(s *Sender) *workers {
	return &workers{sender: s, running: make(map[journal.VolumeID]*worker), refused: make(chan struct{}, 1)}
}

// follow starts and stops workers so that there is one for each member of an
// announcement that the peer accepted. A new term restarts all.
func (w *workers) follow(ctx context.Context, ann Announcement) {
	if ann.Term != w.term {
		w.stop()
		w.term = ann.Term
	}
	for volume := range w.running {
		if _, ok := ann.member(volume); !ok {
			w.end(volume)
		}
	}
	for _, m := range ann.Members {
		if w.running[m.Volume] == nil {
			w.start(ctx, m.Volume)
		}
	}
}

func (w *workers) start(ctx context.Context, volume journal.VolumeID) {
	s := w.sender
	s.mu.Lock()
	if s.stats[volume] == nil {
		s.stats[volume] = newVolumeStats(volume, s.cfg.Clock)
	}
	stats := s.stats[volume]
	s.mu.Unlock()

	ctx, cancel := context.WithCancel(ctx)
	one := &worker{cancel: cancel}
	term := w.term
	one.done.Go(func() { w.run(ctx, volume, stats, term) })
	w.running[volume] = one
}

// end stops one worker and waits for it.
func (w *workers) end(volume journal.VolumeID) {
	w.running[volume].cancel()
	w.running[volume].done.Wait()
	delete(w.running, volume)
	w.sender.forget(volume)
}

// stop stops all and waits for them.
func (w *workers) stop() {
	for _, one := range w.running {
		one.cancel()
	}
	for volume := range w.running {
		w.end(volume)
	}
}

// run opens stream after stream until ctx ends.
func (w *workers) run(ctx context.Context, volume journal.VolumeID, stats *volumeStats, term group.Term) {
	s := w.sender
	retry := pause{clock: s.cfg.Clock, random: s.cfg.Random}
	for {
		progress, err := s.stream(ctx, volume, stats, term)
		stats.disconnected(err)
		if ctx.Err() != nil {
			return
		}
		s.cfg.Log.Info("replication stream ended", "group", s.cfg.Group, "volume", volume, "peer", s.cfg.Peer, "error", err)
		if errors.Is(err, ErrNotAnnounced) || errors.Is(err, ErrStaleTerm) {
			select {
			case w.refused <- struct{}{}:
			default:
			}
		}
		if progress {
			retry.reset()
		}
		if retry.wait(ctx, nil) != nil {
			return
		}
	}
}

// stream runs one stream until it fails; progress tells whether the replica
// has acknowledged anything. The store is asked for anew each time, because
// an engine that recovered has opened another.
func (s *Sender) stream(ctx context.Context, volume journal.VolumeID, stats *volumeStats, term group.Term) (progress bool, err error) {
	store, err := s.cfg.Sources.Source(ctx, s.cfg.Group, volume)
	if err != nil {
		return false, fmt.Errorf("open source: %w", err)
	}
	s.keep(volume, store)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	src := &source{group: s.cfg.Group, term: term, store: store, codec: s.codec, stats: stats}
	defer src.close()
	stream, err := s.client.Replicate(ctx)
	if err != nil {
		return false, s.refusal(err, term)
	}
	opening, err := src.hello()
	if err != nil {
		return false, err
	}
	// An error of Send is only a sign that Recv has the reason.
	_ = stream.Send(opening)
	answer, err := stream.Recv()
	if err != nil {
		return false, s.refusal(err, term)
	}
	if err := src.begin(answer.GetWelcome(), s.cfg.CreditBytes); err != nil {
		return false, err
	}
	stats.connected(src.credit.inFlight)

	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error {
		// Whichever half fails first, the other must not stay in a call that
		// only the end of the stream interrupts.
		defer cancel()
		return s.send(ctx, stream, src)
	})
	both.Go(func() error {
		defer cancel()
		for {
			m, err := stream.Recv()
			if err != nil {
				return s.refusal(err, term)
			}
			if err := src.acknowledge(m.GetAck()); err != nil {
				return err
			}
			progress = true
		}
	})
	err = both.Wait()
	return progress, err
}

// send sends what the source has until it fails or ctx ends.
func (s *Sender) send(ctx context.Context, stream replicationv1.Replication_ReplicateClient, src *source) error {
	for {
		m, err := src.next(ctx)
		if errors.Is(err, errNoCredit) {
			select {
			case <-src.credit.freed:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err != nil {
			return err
		}
		if err := s.throttle(ctx, dataBytes(m)); err != nil {
			return err
		}
		if err := stream.Send(m); err != nil {
			// Recv has the reason, and ends the stream with it.
			<-ctx.Done()
			return ctx.Err()
		}
	}
}

// throttle waits until the rate limit lets n bytes pass.
func (s *Sender) throttle(ctx context.Context, n int) error {
	if s.cfg.Limiter == nil || n == 0 {
		return nil
	}
	now := s.cfg.Clock.Now()
	reservation := s.cfg.Limiter.ReserveN(now, n)
	if !reservation.OK() {
		return fmt.Errorf("send %d bytes: more than the limiter's burst: %w", n, ErrLimit)
	}
	if delay := reservation.DelayFrom(now); delay > 0 {
		return sleep(ctx, s.cfg.Clock, delay, nil)
	}
	return nil
}

// dataBytes is the part of a message that counts against the rate limit.
func dataBytes(m *replicationv1.SourceMessage) int {
	return len(m.GetBatch().GetData()) + len(m.GetChunk().GetData())
}

func (s *Sender) refusal(err error, term group.Term) error {
	return fromStatus(err, s.cfg.Peer, s.cfg.Group, term)
}
