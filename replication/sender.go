package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

// SenderConfig is what a Sender needs.
type SenderConfig struct {
	Group string // to replicate
	Peer  string // the site that Conn leads to
	// Conn leads to the peer's gateway and proves that it is Peer; see Dial.
	Conn    grpc.ClientConnInterface
	Sources Sources
	Groups  Demoter
	Clock   clock.Clock
	// Random returns numbers in [0, 1) for the jitter of reconnects; it may
	// be called concurrently.
	Random func() float64
	// CreditBytes bounds what is unacknowledged per volume; the replica may
	// ask for less. 0: DefaultCreditBytes.
	CreditBytes int64
	// Compress compresses what is sent with zstd.
	Compress bool
	// Limiter bounds the bytes per second of all volumes together, and may be
	// shared by several Senders; nil: unlimited. Its burst must be at least
	// MaxMessageBytes.
	Limiter *rate.Limiter
	// Heartbeat is the time between announcements; 0: DefaultHeartbeat.
	Heartbeat time.Duration
	Log       *slog.Logger
}

// Validate returns an error that names the first field that cannot be used.
func (c *SenderConfig) Validate() error {
	if err := checkNames(c.Group, c.Peer); err != nil {
		return fmt.Errorf("replication sender: %w", err)
	}
	switch {
	case c.Conn == nil || c.Sources == nil || c.Groups == nil || c.Clock == nil || c.Random == nil || c.Log == nil:
		return errors.New("replication sender: Conn, Sources, Groups, Clock, Random and Log must be set")
	case c.CreditBytes < 0 || c.Heartbeat < 0:
		return errors.New("replication sender: CreditBytes and Heartbeat must not be negative")
	}
	if err := checkLimiter(c.Limiter); err != nil {
		return fmt.Errorf("replication sender: %w", err)
	}
	return nil
}

// Sender replicates one group from this site, its primary, to one peer: an
// Announcer, and a VolumeSender for each member that it has announced. It only
// reads stores, so that a slow or dead peer never delays a write.
type Sender struct {
	cfg       SenderConfig
	announcer *Announcer
	codec     *codec
	term      group.Term // that the workers run at; used by Run's goroutine

	mu sync.Mutex
	// workers are those that run, by volume. Guarded by mu; changed by Run's
	// goroutine only.
	workers map[journal.VolumeID]*worker
	// stats outlive workers: figures count since the Sender was made.
	stats map[journal.VolumeID]*volumeStats // guarded by mu
}

// worker is a VolumeSender at work.
type worker struct {
	sender *VolumeSender
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// NewSender makes a Sender; nothing is sent before Run.
func NewSender(cfg SenderConfig) (*Sender, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	codec, err := newCodec(cfg.Compress)
	if err != nil {
		return nil, err
	}
	s := &Sender{cfg: cfg, codec: codec, workers: make(map[journal.VolumeID]*worker), stats: make(map[journal.VolumeID]*volumeStats)}
	s.announcer, err = NewAnnouncer(AnnouncerConfig{
		Group: cfg.Group, Peer: cfg.Peer, Conn: cfg.Conn, Announcements: cfg.Sources, Groups: cfg.Groups,
		Clock: cfg.Clock, Random: cfg.Random, Heartbeat: cfg.Heartbeat, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	s.announcer.accepted, s.announcer.stale = s.follow, s.stop
	return s, nil
}

// Run replicates until ctx ends, which it returns, or until the peer holds a
// higher term of another site: then this one is demoted, durably, and Run returns a
// *TermError that matches ErrStaleTerm. Every other failure, of the peer, the
// connection or a store, is shown in Metrics and tried again. Run is called
// once; all its goroutines have ended when it returns.
func (s *Sender) Run(ctx context.Context) error {
	defer s.stop()
	return s.announcer.Run(ctx)
}

// follow starts and stops workers so that there is one for each member of an
// announcement that the peer accepted. A new term restarts all.
func (s *Sender) follow(ctx context.Context, ann Announcement) {
	if ann.Term != s.term {
		s.stop()
		s.term = ann.Term
	}
	for volume := range s.workers {
		if _, ok := ann.member(volume); !ok {
			s.end(volume)
		}
	}
	for _, m := range ann.Members {
		if s.workers[m.Volume] == nil {
			s.start(ctx, m.Volume)
		}
	}
}

func (s *Sender) start(ctx context.Context, volume journal.VolumeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stats[volume] == nil {
		s.stats[volume] = newVolumeStats(volume, s.cfg.Clock)
	}
	sender := newVolumeSender(VolumeSenderConfig{
		Group: s.cfg.Group, Term: s.term, Volume: volume, Peer: s.cfg.Peer, Conn: s.cfg.Conn,
		Source: func(ctx context.Context) (SourceStore, error) {
			return s.cfg.Sources.Source(ctx, s.cfg.Group, volume)
		},
		Clock: s.cfg.Clock, Random: s.cfg.Random, CreditBytes: s.cfg.CreditBytes, Limiter: s.cfg.Limiter, Log: s.cfg.Log,
	}, s.codec, s.stats[volume])
	sender.ended = s.refused
	ctx, cancel := context.WithCancel(ctx)
	one := &worker{sender: sender, cancel: cancel}
	s.workers[volume] = one
	one.done.Go(func() { _ = sender.Run(ctx) }) // ends with ctx, whose error says nothing
}

// refused announces at once when a stream was refused for a reason that the
// next announcement clears up.
func (s *Sender) refused(cause error) {
	if errors.Is(cause, ErrNotAnnounced) || errors.Is(cause, ErrStaleTerm) {
		s.announcer.AnnounceNow()
	}
}

// end stops one worker and waits for it.
func (s *Sender) end(volume journal.VolumeID) {
	one := s.workers[volume]
	one.cancel()
	one.done.Wait()
	s.mu.Lock()
	delete(s.workers, volume)
	s.mu.Unlock()
}

// stop stops all workers and waits for them.
func (s *Sender) stop() {
	for _, one := range s.workers {
		one.cancel()
	}
	for volume := range s.workers {
		s.end(volume)
	}
}

// Metrics returns a snapshot; it may be called at any time, concurrently.
func (s *Sender) Metrics() Metrics {
	announced := s.announcer.Metrics()
	m := Metrics{Group: s.cfg.Group, Peer: s.cfg.Peer, Term: announced.Term, Announced: announced.Announced, LastError: announced.LastError}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.workers {
		if v, opened := one.sender.metrics(); opened {
			m.Volumes = append(m.Volumes, v)
		}
	}
	slices.SortFunc(m.Volumes, func(a, b VolumeMetrics) int { return slices.Compare(a.Volume[:], b.Volume[:]) })
	return m
}
