package groupmetrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/internal/clock"
)

const (
	// askTimeout bounds how long members are asked for their checkpoints, for all
	// groups together. A group whose members do not answer by then gives what is
	// known without them; Prometheus waits for 10 s.
	askTimeout = 5 * time.Second
	// asking is how many groups are asked at once.
	asking = 8
)

var (
	labels = []string{"group"}

	newestPoint  = prometheus.NewDesc("lockstep_group_newest_point_timestamp_seconds", "Newest moment that the group can be recovered to.", labels, nil)
	oldestPoint  = prometheus.NewDesc("lockstep_group_oldest_point_timestamp_seconds", "Oldest moment that the group can be recovered to: the achieved window's begin.", labels, nil)
	achieved     = prometheus.NewDesc("lockstep_group_achieved_window_seconds", "How far back the group can be recovered to.", labels, nil)
	wanted       = prometheus.NewDesc("lockstep_group_wanted_window_seconds", "How far back history is wanted.", labels, nil)
	windowShort  = prometheus.NewDesc("lockstep_group_window_short", "1 while the achieved window is shorter than wanted because history was given up, and not because the group is young.", labels, nil)
	checkpoints  = prometheus.NewDesc("lockstep_group_checkpoints_total", "Checkpoint rounds by outcome.", []string{"group", "outcome"}, nil)
	descriptions = []*prometheus.Desc{newestPoint, oldestPoint, achieved, wanted, windowShort, checkpoints}
)

// Groups is what is collected from; *groups.Groups is one.
type Groups interface {
	Groups() []string
	// Summary describes a group as far as it can, also with an error.
	Summary(ctx context.Context, name string) (groups.Summary, error)
}

// Collector reads the figures of all groups when metrics are asked for. It may be
// asked concurrently.
type Collector struct {
	groups Groups
	clock  clock.Clock
}

// New returns a Collector.
func New(of Groups, c clock.Clock) *Collector { return &Collector{groups: of, clock: c} }

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descriptions {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	var all errgroup.Group
	all.SetLimit(asking)
	for _, name := range c.groups.Groups() {
		all.Go(func() error {
			// A member that does not answer costs what it alone can tell, and a
			// group that has ended meanwhile has no name.
			if s, _ := c.groups.Summary(ctx, name); s.State.Name != "" {
				c.group(ch, &s)
			}
			return nil
		})
	}
	_ = all.Wait() // none fails
}

func (c *Collector) group(ch chan<- prometheus.Metric, s *groups.Summary) {
	name, now := s.State.Name, c.clock.Now()
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, name)
	}
	if s.Newest != nil {
		gauge(newestPoint, float64(s.Newest.ValidUntil.UnixNano())/1e9)
	}
	if s.Oldest != nil {
		gauge(oldestPoint, float64(s.Oldest.Time.UnixNano())/1e9)
		gauge(achieved, s.AchievedWindow(now).Seconds())
		short := 0.0
		if s.IsWindowShort(now) {
			short = 1
		}
		gauge(windowShort, short)
	}
	gauge(wanted, s.State.Settings.Window.Seconds())
	for outcome, n := range map[string]uint64{"committed": s.Stats.Committed, "idle": s.Stats.Idle, "aborted": s.Stats.Aborted} {
		ch <- prometheus.MustNewConstMetric(checkpoints, prometheus.CounterValue, float64(n), name, outcome)
	}
}
