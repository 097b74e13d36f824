package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

// VolumeSenderConfig is what a VolumeSender needs.
type VolumeSenderConfig struct {
	Group  string     // that Volume is a member of
	Term   group.Term // at which this site is the group's primary, at least 1
	Volume journal.VolumeID
	Peer   string // the site that Conn leads to
	// Conn leads to the peer's gateway and proves that it is Peer; see Dial.
	Conn grpc.ClientConnInterface
	// Source returns the volume's open store. It is asked once for each
	// stream, because an engine that recovered has opened another.
	Source func(ctx context.Context) (SourceStore, error)
	Clock  clock.Clock
	// Random returns numbers in [0, 1) for the jitter of reconnects; it may
	// be called concurrently.
	Random func() float64
	// CreditBytes bounds what is unacknowledged; the replica may ask for
	// less. 0: DefaultCreditBytes.
	CreditBytes int64
	// Compress compresses what is sent with zstd.
	Compress bool
	// Limiter bounds the bytes per second, and may be shared; nil: unlimited.
	// Its burst must be at least MaxMessageBytes.
	Limiter *rate.Limiter
	Log     *slog.Logger
}

// Validate returns an error that names the first field that cannot be used.
func (c *VolumeSenderConfig) Validate() error {
	if err := checkNames(c.Group, c.Peer); err != nil {
		return fmt.Errorf("volume sender: %w", err)
	}
	switch {
	case c.Term == 0:
		return errors.New("volume sender: Term must be at least 1")
	case c.Volume.IsZero():
		return errors.New("volume sender: Volume must be set")
	case c.Conn == nil || c.Source == nil || c.Clock == nil || c.Random == nil || c.Log == nil:
		return errors.New("volume sender: Conn, Source, Clock, Random and Log must be set")
	case c.CreditBytes < 0:
		return errors.New("volume sender: CreditBytes must not be negative")
	}
	if err := checkLimiter(c.Limiter); err != nil {
		return fmt.Errorf("volume sender: %w", err)
	}
	return nil
}

// NewLimiter makes a limiter of so many bytes a second, through which one full
// message passes at once; nil for 0, which is unlimited.
func NewLimiter(bytesPerSecond int64) *rate.Limiter {
	if bytesPerSecond == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(bytesPerSecond), MaxMessageBytes)
}

// checkLimiter reports a limiter that could never let a full message pass.
func checkLimiter(l *rate.Limiter) error {
	if l != nil && l.Limit() != rate.Inf && l.Burst() < MaxMessageBytes {
		return fmt.Errorf("limiter's burst is %d, want at least %d", l.Burst(), MaxMessageBytes)
	}
	return nil
}

// VolumeSender replicates one volume, at one term of its group, to one peer.
// It is the half of a Sender that an engine runs by itself; whoever has the
// group announces it. It only reads the store, so that a slow or dead peer
// never delays a write.
type VolumeSender struct {
	cfg    VolumeSenderConfig
	client replicationv1.ReplicationClient
	codec  *codec
	stats  *volumeStats
	// ended is told why each stream ended; nil: nobody asks.
	ended func(cause error)

	mu    sync.Mutex
	store SourceStore // guarded by mu; of the newest stream, nil before the first
}

// NewVolumeSender makes a VolumeSender; nothing is sent before Run.
func NewVolumeSender(cfg VolumeSenderConfig) (*VolumeSender, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	codec, err := newCodec(cfg.Compress)
	if err != nil {
		return nil, err
	}
	return newVolumeSender(cfg, codec, newVolumeStats(cfg.Volume, cfg.Clock)), nil
}

// newVolumeSender makes one of a valid configuration.
func newVolumeSender(cfg VolumeSenderConfig, codec *codec, stats *volumeStats) *VolumeSender {
	if cfg.CreditBytes == 0 {
		cfg.CreditBytes = DefaultCreditBytes
	}
	return &VolumeSender{cfg: cfg, client: replicationv1.NewReplicationClient(cfg.Conn), codec: codec, stats: stats}
}

// Run opens stream after stream until ctx ends, whose error it returns. No
// failure ends it, a stale term neither: only whoever ordered the sending
// knows what is to become of the group. All are shown in Metrics. Run is
// called once; all its goroutines have ended when it returns.
func (v *VolumeSender) Run(ctx context.Context) error {
	var repairing sync.WaitGroup
	defer repairing.Wait()
	repairing.Go(func() { v.repairs(ctx) })
	retry := pause{clock: v.cfg.Clock, random: v.cfg.Random}
	for {
		progress, err := v.stream(ctx)
		v.stats.disconnected(err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v.cfg.Log.Info("replication stream ended", "group", v.cfg.Group, "volume", v.cfg.Volume, "peer", v.cfg.Peer, "error", err)
		if v.ended != nil {
			v.ended(err)
		}
		if progress {
			retry.reset()
		}
		if err := v.pause(ctx, &retry, err); err != nil {
			return err
		}
	}
}

// pause waits after a stream that ended with cause. A replica that has no room will
// hardly have some in the next second, and says so in its own log each time.
func (v *VolumeSender) pause(ctx context.Context, retry *pause, cause error) error {
	if errors.Is(cause, journal.ErrFull) {
		return sleep(ctx, v.cfg.Clock, fullPause/2+time.Duration(v.cfg.Random()*float64(fullPause/2)), nil)
	}
	return retry.wait(ctx, nil)
}

// Metrics returns a snapshot; it may be called at any time, concurrently.
func (v *VolumeSender) Metrics() VolumeMetrics {
	m, _ := v.metrics()
	return m
}

// metrics tells also whether the store has been opened; before, nothing is
// known of how far the replica is behind.
func (v *VolumeSender) metrics() (m VolumeMetrics, opened bool) {
	v.mu.Lock()
	store := v.store
	v.mu.Unlock()
	if store == nil {
		return v.stats.unopened(), false
	}
	return v.stats.snapshot(store.Durable()), true
}

// stream runs one stream until it fails; progress tells whether the replica
// has acknowledged anything.
func (v *VolumeSender) stream(ctx context.Context) (progress bool, err error) {
	store, err := v.cfg.Source(ctx)
	if err != nil {
		return false, fmt.Errorf("open source: %w", err)
	}
	v.mu.Lock()
	v.store = store
	v.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	src := &source{group: v.cfg.Group, term: v.cfg.Term, store: store, codec: v.codec, stats: v.stats}
	defer src.close()
	stream, err := v.client.Replicate(ctx)
	if err != nil {
		return false, v.refusal(err)
	}
	opening, err := src.hello()
	if err != nil {
		return false, err
	}
	// An error of Send is only a sign that Recv has the reason.
	_ = stream.Send(opening)
	answer, err := stream.Recv()
	if err != nil {
		return false, v.refusal(err)
	}
	if err := src.begin(answer.GetWelcome(), v.cfg.CreditBytes); err != nil {
		return false, err
	}
	v.stats.connected(src.credit.inFlight)

	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error {
		// Whichever half fails first, the other must not stay in a call that
		// only the end of the stream interrupts.
		defer cancel()
		return v.send(ctx, stream, src)
	})
	both.Go(func() error {
		defer cancel()
		for {
			m, err := stream.Recv()
			if err != nil {
				return v.refusal(err)
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
func (v *VolumeSender) send(ctx context.Context, stream replicationv1.Replication_ReplicateClient, src *source) error {
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
		if err := v.throttle(ctx, dataBytes(m)); err != nil {
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
func (v *VolumeSender) throttle(ctx context.Context, n int) error {
	if v.cfg.Limiter == nil || n == 0 {
		return nil
	}
	now := v.cfg.Clock.Now()
	reservation := v.cfg.Limiter.ReserveN(now, n)
	if !reservation.OK() {
		return fmt.Errorf("send %d bytes: more than the limiter's burst: %w", n, ErrLimit)
	}
	if delay := reservation.DelayFrom(now); delay > 0 {
		return sleep(ctx, v.cfg.Clock, delay, nil)
	}
	return nil
}

// dataBytes is the part of a message that counts against the rate limit.
func dataBytes(m *replicationv1.SourceMessage) int {
	return len(m.GetBatch().GetData()) + len(m.GetChunk().GetData())
}

func (v *VolumeSender) refusal(err error) error {
	return fromStatus(err, v.cfg.Peer, v.cfg.Group, v.cfg.Term)
}
