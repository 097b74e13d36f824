package driver

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lockstep-csi/lockstep/journal"
)

// Figures of a volume's history; see journal.ThinningStats.
var (
	historyPoints  = prometheus.NewDesc("lockstep_volume_checkpoints", "Checkpoints in the journal.", volumeLabels, nil)
	historyBytes   = prometheus.NewDesc("lockstep_volume_history_bytes", "Room taken by segments, by the interval that they were thinned to; 0: not thinned.", append([]string{"interval_seconds"}, volumeLabels...), nil)
	thinnedRead    = prometheus.NewDesc("lockstep_volume_thinning_replaced_bytes_total", "Room of segments that thinning has replaced.", volumeLabels, nil)
	thinnedWritten = prometheus.NewDesc("lockstep_volume_thinning_written_bytes_total", "Room of segments that thinning has put in the place of others.", volumeLabels, nil)
	thinUnderway   = prometheus.NewDesc("lockstep_volume_thinning_underway_bytes", "Bytes that the rewrite under way reads.", volumeLabels, nil)
	thinDone       = prometheus.NewDesc("lockstep_volume_thinning_done_bytes", "Bytes that the rewrite under way has read.", volumeLabels, nil)
)

var historyDescs = []*prometheus.Desc{historyPoints, historyBytes, thinnedRead, thinnedWritten, thinUnderway, thinDone}

func collectHistory(ch chan<- prometheus.Metric, st *journal.ThinningStats, of ...string) {
	value := func(d *prometheus.Desc, kind prometheus.ValueType, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, float64(v), labels...)
	}
	value(historyPoints, prometheus.GaugeValue, int64(st.Checkpoints), of...)
	for _, tier := range st.Tiers {
		value(historyBytes, prometheus.GaugeValue, tier.Bytes, append([]string{strconv.FormatFloat(tier.Interval.Seconds(), 'f', -1, 64)}, of...)...)
	}
	value(thinnedRead, prometheus.CounterValue, st.ReadBytes, of...)
	value(thinnedWritten, prometheus.CounterValue, st.WrittenBytes, of...)
	value(thinUnderway, prometheus.GaugeValue, st.UnderwayBytes, of...)
	value(thinDone, prometheus.GaugeValue, st.DoneBytes, of...)
}
