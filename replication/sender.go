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

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
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
	Groups  Groups
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
	switch {
	case c.Group == "" || len(c.Group) > MaxNameBytes:
		return fmt.Errorf("replication sender: group name has %d bytes, want 1 to %d", len(c.Group), MaxNameBytes)
	case c.Peer == "" || len(c.Peer) > MaxNameBytes:
		return fmt.Errorf("replication sender: peer name has %d bytes, want 1 to %d", len(c.Peer), MaxNameBytes)
	case c.Conn == nil || c.Sources == nil || c.Groups == nil || c.Clock == nil || c.Random == nil || c.Log == nil:
		return errors.New("replication sender: Conn, Sources, Groups, Clock, Random and Log must be set")
	case c.CreditBytes < 0 || c.Heartbeat < 0:
		return errors.New("replication sender: CreditBytes and Heartbeat must not be negative")
	case c.Limiter != nil && c.Limiter.Limit() != rate.Inf && c.Limiter.Burst() < MaxMessageBytes:
		return fmt.Errorf("replication sender: limiter's burst is %d, want at least %d", c.Limiter.Burst(), MaxMessageBytes)
	}
	return nil
}

// Sender replicates one group from this site, its primary, to one peer. It
// only reads stores, so that a slow or dead peer never delays a write.
type Sender struct {
	cfg    SenderConfig
	client replicationv1.ReplicationClient
	codec  *codec

	mu        sync.Mutex
	stats     map[journal.VolumeID]*volumeStats // guarded by mu
	stores    map[journal.VolumeID]SourceStore  // guarded by mu; of running workers
	term      group.Term                        // guarded by mu
	announced time.Time                         // guarded by mu
	lastError error                             // guarded by mu
}

// NewSender makes a Sender; nothing is sent before Run.
func NewSender(cfg SenderConfig) (*Sender, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.CreditBytes == 0 {
		cfg.CreditBytes = DefaultCreditBytes
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = DefaultHeartbeat
	}
	codec, err := newCodec(cfg.Compress)
	if err != nil {
		return nil, err
	}
	return &Sender{
		cfg:    cfg,
		client: replicationv1.NewReplicationClient(cfg.Conn),
		codec:  codec,
		stats:  make(map[journal.VolumeID]*volumeStats),
		stores: make(map[journal.VolumeID]SourceStore),
	}, nil
}

// Run replicates until ctx ends, which it returns, or until the peer holds a
// higher term: then this site is demoted, durably, and Run returns a
// *TermError that matches ErrStaleTerm. Every other failure, of the peer, the
// connection or a store, is shown in Metrics and tried again. Run is called
// once; all its goroutines have ended when it returns.
func (s *Sender) Run(ctx context.Context) error {
	workers := newWorkers(s)
	defer workers.stop()
	retry := pause{clock: s.cfg.Clock, random: s.cfg.Random}
	for {
		ann, err := s.announce(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.note(ann, err)
		if errors.Is(err, ErrStaleTerm) {
			// Nothing of this site's may be sent any more, whether or not the
			// demotion can be made durable now.
			workers.stop()
			if demoted, demoteErr := demoteIfStale(ctx, s.cfg.Groups, s.cfg.Group, err); demoted {
				return err
			} else if demoteErr != nil {
				s.note(ann, demoteErr)
			}
		}
		if err == nil {
			workers.follow(ctx, ann)
			retry.reset()
			err = sleep(ctx, s.cfg.Clock, s.cfg.Heartbeat, workers.refused)
		} else {
			err = retry.wait(ctx, nil)
		}
		if err != nil {
			return err
		}
	}
}

// announce sends one announcement and returns what was announced.
func (s *Sender) announce(ctx context.Context) (Announcement, error) {
	ann, err := s.cfg.Sources.Announcement(ctx, s.cfg.Group)
	if err != nil {
		return ann, fmt.Errorf("describe group %s: %w", s.cfg.Group, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := s.client.Announce(ctx, encodeAnnouncement(ann))
	if err != nil {
		return ann, fromStatus(err, s.cfg.Peer, s.cfg.Group, ann.Term)
	}
	return ann, checkVersion(resp.GetVersion())
}

// note keeps the outcome of an announcement for Metrics, and logs a change.
func (s *Sender) note(ann Announcement, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if (err == nil) != (s.lastError == nil) || s.announced.IsZero() && s.lastError == nil {
		s.cfg.Log.Info("announced group", "group", s.cfg.Group, "peer", s.cfg.Peer, "term", ann.Term, "error", err)
	}
	s.lastError = err
	if err == nil {
		s.term, s.announced = ann.Term, s.cfg.Clock.Now()
	}
}

// keep notes the store that a worker reads, for Metrics.
func (s *Sender) keep(volume journal.VolumeID, store SourceStore) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stores[volume] = store
}

// forget is called when a worker has ended.
func (s *Sender) forget(volume journal.VolumeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.stores, volume)
}

// Metrics returns a snapshot; it may be called at any time, concurrently.
func (s *Sender) Metrics() Metrics {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := Metrics{Group: s.cfg.Group, Peer: s.cfg.Peer, Term: s.term, Announced: s.announced, LastError: s.lastError}
	for volume, store := range s.stores {
		m.Volumes = append(m.Volumes, s.stats[volume].snapshot(store.Durable()))
	}
	slices.SortFunc(m.Volumes, func(a, b VolumeMetrics) int { return slices.Compare(a.Volume[:], b.Volume[:]) })
	return m
}
