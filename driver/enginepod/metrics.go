package enginepod

import (
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

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
	journalBytes = prometheus.NewDesc("lockstep_volume_journal_bytes", "Room taken by segments that hold records.", labels, nil)
	indexExtents = prometheus.NewDesc("lockstep_volume_index_extents", "Extents of the live view's index that are in memory.", labels, nil)
	failed       = prometheus.NewDesc("lockstep_volume_failed", "1 if the volume is not served as ordered.", labels, nil)
	damaged      = prometheus.NewDesc("lockstep_volume_damaged", "Places known to be damaged: reads of them fail.", labels, nil)
	scrubRatio   = prometheus.NewDesc("lockstep_volume_scrub_progress_ratio", "How much of the present pass of the scrub is done, 0 to 1.", labels, nil)
	scrubLast    = prometheus.NewDesc("lockstep_volume_scrub_last_full_timestamp_seconds", "When the scrub last had read all of the volume's store.", labels, nil)
	scrubBytes   = prometheus.NewDesc("lockstep_volume_scrub_bytes_total", "Bytes that the scrub has read.", labels, nil)
	unsummed     = prometheus.NewDesc("lockstep_volume_unsummed_bytes", "Bytes of the base image that have no checksums yet.", labels, nil)
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
	own := []*prometheus.Desc{journalBytes, indexExtents, failed, damaged, scrubRatio, scrubLast, scrubBytes, unsummed, freeBytes, journalFree, lagSeconds, lagRecords, replicating}
	for _, d := range slices.Concat(own, historyDescs) {
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
		gauge(journalBytes, float64(st.JournalBytes))
		gauge(indexExtents, float64(st.IndexExtents))
		gauge(freeBytes, float64(st.FreeBytes))
		collectHistory(ch, &st.Thinning, s.Volume.String())
	}
	if dir := pod.cfg.JournalDir; dir != "" {
		if _, free, err := pod.cfg.FS.Space(dir); err == nil {
			gauge(journalFree, float64(free))
		}
	}
	if eng, err := pod.Engine(); err == nil {
		scrub := eng.Store().ScrubStats()
		gauge(damaged, float64(eng.Store().Stats().Damaged))
		gauge(scrubRatio, scrub.Progress)
		gauge(unsummed, float64(scrub.UnsummedBase))
		ch <- prometheus.MustNewConstMetric(scrubBytes, prometheus.CounterValue, float64(scrub.Bytes), s.Volume.String())
		if !scrub.LastFull.IsZero() {
			gauge(scrubLast, float64(scrub.LastFull.UnixNano())/1e9)
		}
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
