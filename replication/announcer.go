package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
)

// AnnouncerConfig is what an Announcer needs.
type AnnouncerConfig struct {
	Group string // to announce
	Peer  string // the site that Conn leads to
	// Conn leads to the peer's gateway and proves that it is Peer; see Dial.
	Conn          grpc.ClientConnInterface
	Announcements Announcements
	Groups        Demoter
	Clock         clock.Clock
	// Random returns numbers in [0, 1) for the jitter of retries; it may be
	// called concurrently.
	Random func() float64
	// Heartbeat is the time between announcements; 0: DefaultHeartbeat.
	Heartbeat time.Duration
	Log       *slog.Logger
}

// Validate returns an error that names the first field that cannot be used.
func (c *AnnouncerConfig) Validate() error {
	if err := checkNames(c.Group, c.Peer); err != nil {
		return fmt.Errorf("announcer: %w", err)
	}
	switch {
	case c.Conn == nil || c.Announcements == nil || c.Groups == nil || c.Clock == nil || c.Random == nil || c.Log == nil:
		return errors.New("announcer: Conn, Announcements, Groups, Clock, Random and Log must be set")
	case c.Heartbeat < 0:
		return errors.New("announcer: Heartbeat must not be negative")
	}
	return nil
}

// checkNames reports a name of a group or peer that the protocol cannot carry.
func checkNames(group, peer string) error {
	for _, name := range []struct{ of, name string }{{"group", group}, {"peer", peer}} {
		if name.name == "" || len(name.name) > MaxNameBytes {
			return fmt.Errorf("%s name has %d bytes, want 1 to %d", name.of, len(name.name), MaxNameBytes)
		}
	}
	return nil
}

// Announcer announces one group from the site that is its primary to one
// peer. It is the half of a Sender that a cluster's controller runs; the
// members' engines run a VolumeSender each.
type Announcer struct {
	cfg    AnnouncerConfig
	client replicationv1.ReplicationClient
	wake   chan struct{} // holds a token when the next heartbeat shall be now
	// accepted is called with each announcement that the peer accepted, stale
	// when it holds a higher term, before this site is demoted. Both are
	// called by the goroutine of Run; nil: nobody asks.
	accepted func(ctx context.Context, a Announcement)
	stale    func()

	mu sync.Mutex
	m  AnnouncerMetrics // guarded by mu
}

// AnnouncerMetrics is a snapshot of an Announcer.
type AnnouncerMetrics struct {
	Term group.Term // of the newest announcement that the peer accepted
	// Announced is when the peer last accepted an announcement; zero: never.
	Announced time.Time
	// LastError is why the newest announcement failed; nil when it did not.
	LastError error
}

// NewAnnouncer makes an Announcer; nothing is sent before Run.
func NewAnnouncer(cfg AnnouncerConfig) (*Announcer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = DefaultHeartbeat
	}
	return &Announcer{cfg: cfg, client: replicationv1.NewReplicationClient(cfg.Conn), wake: make(chan struct{}, 1)}, nil
}

// AnnounceNow ends the pause before the next heartbeat: for a group that has
// changed, or one of whose streams was refused for the sake of its term. After
// a failed announcement the pause is kept. It never blocks.
func (a *Announcer) AnnounceNow() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run announces until ctx ends, which it returns, or until the peer holds a
// higher term of another site: then this one is demoted, durably, and Run returns a
// *TermError that matches ErrStaleTerm. Every other failure is shown in
// Metrics and tried again. Run is called once.
func (a *Announcer) Run(ctx context.Context) error {
	retry := pause{clock: a.cfg.Clock, random: a.cfg.Random}
	for {
		ann, err := a.announce(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.note(ann, err)
		if errors.Is(err, ErrStaleTerm) {
			if demoted, demoteErr := a.demote(ctx, err); demoted {
				return err
			} else if demoteErr != nil {
				a.note(ann, demoteErr)
			}
		}
		if err == nil {
			if a.accepted != nil {
				a.accepted(ctx, ann)
			}
			retry.reset()
			err = sleep(ctx, a.cfg.Clock, a.cfg.Heartbeat, a.wake)
		} else {
			err = retry.wait(ctx, nil)
		}
		if err != nil {
			return err
		}
	}
}

// demote gives the group up. Nothing of this site's may be sent any more,
// whether or not the demotion can be made durable now.
func (a *Announcer) demote(ctx context.Context, refusal error) (demoted bool, err error) {
	if a.stale != nil {
		a.stale()
	}
	return demoteIfStale(ctx, a.cfg.Groups, a.cfg.Group, refusal)
}

// announce sends one announcement and returns what was announced.
func (a *Announcer) announce(ctx context.Context) (Announcement, error) {
	ann, err := a.cfg.Announcements.Announcement(ctx, a.cfg.Group)
	if err != nil {
		return ann, fmt.Errorf("describe group %s: %w", a.cfg.Group, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := a.client.Announce(ctx, encodeAnnouncement(ann))
	if err != nil {
		return ann, fromStatus(err, a.cfg.Peer, a.cfg.Group, ann.Term)
	}
	return ann, checkVersion(resp.GetVersion())
}

// note keeps the outcome of an announcement for Metrics, and logs a change.
func (a *Announcer) note(ann Announcement, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if (err == nil) != (a.m.LastError == nil) || a.m.Announced.IsZero() && a.m.LastError == nil {
		a.cfg.Log.Info("announced group", "group", a.cfg.Group, "peer", a.cfg.Peer, "term", ann.Term, "error", err)
	}
	a.m.LastError = err
	if err == nil {
		a.m.Term, a.m.Announced = ann.Term, a.cfg.Clock.Now()
	}
}

// Metrics returns a snapshot; it may be called at any time, concurrently.
func (a *Announcer) Metrics() AnnouncerMetrics {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.m
}
