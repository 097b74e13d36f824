package enginepod

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lockstep-csi/lockstep/driver/storemetrics"
	"github.com/lockstep-csi/lockstep/engine/control"
)

// Ready returns nil while the volume is as it was ordered to be.
func (p *Pod) Ready() error {
	s, _ := p.State()
	switch {
	case s.Reason == control.ReasonFilling:
		return fmt.Errorf("volume %s is being filled", s.Volume)
	case s.Error != "":
		return fmt.Errorf("volume %s: %s: %s", s.Volume, s.Reason, s.Error)
	}
	return nil
}

// collector reads an engine's figures when metrics are asked for, once it is
// open.
type collector struct{ open func() *Pod }

var (
	labels       = []string{"volume"}
	storeMetrics = storemetrics.New(labels)
	failed       = prometheus.NewDesc("lockstep_volume_failed", "1 if the volume is not served as ordered.", labels, nil)
	freeBytes    = prometheus.NewDesc("lockstep_backing_free_bytes", "Free space of the backing volume.", labels, nil)
	journalFree  = prometheus.NewDesc("lockstep_journal_free_bytes", "Free space of the journal's own backing volume.", labels, nil)
	lagSeconds   = prometheus.NewDesc("lockstep_volume_lag_seconds", "How far the replica is behind.", labels, nil)
	lagRecords   = prometheus.NewDesc("lockstep_volume_lag_records", "Durable records that the replica does not hold.", labels, nil)
	replicating  = prometheus.NewDesc("lockstep_volume_replicating", "1 while the replica is connected.", labels, nil)
)

func metricsOf(open func() *Pod) []prometheus.Collector {
	return []prometheus.Collector{collector{open}}
}

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	storeMetrics.Describe(ch)
	for _, d := range []*prometheus.Desc{failed, freeBytes, journalFree, lagSeconds, lagRecords, replicating} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	pod := c.open()
	if pod == nil {
		return
	}
	s, _ := pod.State()
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, s.Volume.String())
	}
	gauge(failed, truth(s.Error != ""))
	if st := s.Store; st != nil {
		storeMetrics.Journal(ch, st.JournalBytes, st.IndexExtents, &st.Thinning, s.Volume.String())
		storeMetrics.Space(ch, &st.Space, s.Volume.String())
		gauge(freeBytes, float64(st.FreeBytes))
	}
	if dir := pod.cfg.JournalDir; dir != "" {
		if _, free, err := pod.cfg.FS.Space(dir); err == nil {
			gauge(journalFree, float64(free))
		}
	}
	if eng, err := pod.Engine(); err == nil {
		scrub, stats := eng.Store().ScrubStats(), eng.Store().Stats()
		storeMetrics.Checks(ch, &stats, &scrub, s.Volume.String())
	}
	if r := s.Replication; r != nil {
		gauge(lagSeconds, r.LagTime.Seconds())
		gauge(lagRecords, float64(r.LagRecords))
		gauge(replicating, truth(r.Connected))
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
