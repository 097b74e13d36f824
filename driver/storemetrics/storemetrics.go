// Package storemetrics says what the figures of a store are called, for whoever
// serves it: a site of several, or the engine of one.
package storemetrics

import (
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lockstep-csi/lockstep/journal"
)

// Metrics are the figures of stores that have the same labels. Constant, and safe
// for concurrent use.
type Metrics struct {
	all []*prometheus.Desc

	journalBytes, indexExtents                    *prometheus.Desc
	damaged, unrepairable, repaired, wrongRepairs *prometheus.Desc
	scrubRatio, scrubLast, scrubBytes, unsummed   *prometheus.Desc
	checkpoints, historyBytes, replaced, written  *prometheus.Desc
	thinningUnderwayBytes, thinningDoneBytes      *prometheus.Desc
	short, refused, givenUp, points               *prometheus.Desc
}

// New names the figures of stores with labels, whose values are given in the same
// order when the figures are collected.
func New(labels []string) *Metrics {
	m := &Metrics{}
	desc := func(name, help string, more ...string) *prometheus.Desc {
		d := prometheus.NewDesc(name, help, slices.Concat(more, labels), nil)
		m.all = append(m.all, d)
		return d
	}
	m.journalBytes = desc("lockstep_volume_journal_bytes", "Room taken by segments that hold records.")
	m.indexExtents = desc("lockstep_volume_index_extents", "Extents of the live view's index that are in memory.")
	m.damaged = desc("lockstep_volume_damaged", "Places known to be damaged: reads of them fail.")
	m.unrepairable = desc("lockstep_volume_unrepairable", "Places known to be damaged that no peer could help with, yet.")
	m.repaired = desc("lockstep_volume_repaired_total", "Repairs of records, runs of sectors, headers and footers.")
	m.wrongRepairs = desc("lockstep_volume_repairs_refused_total", "Answers of the peer that did not fit what was damaged.")
	m.scrubRatio = desc("lockstep_volume_scrub_progress_ratio", "How much of the present pass of the scrub is done, 0 to 1.")
	m.scrubLast = desc("lockstep_volume_scrub_last_full_timestamp_seconds", "When the scrub last had read all of the volume's store.")
	m.scrubBytes = desc("lockstep_volume_scrub_bytes_total", "Bytes that the scrub has read.")
	m.unsummed = desc("lockstep_volume_unsummed_bytes", "Bytes of the base image that have no checksums yet.")
	m.checkpoints = desc("lockstep_volume_checkpoints", "Checkpoints in the journal.")
	m.historyBytes = desc("lockstep_volume_history_bytes", "Room taken by segments, by the interval that they were thinned to; 0: not thinned, +Inf: kept for pins alone.", "interval_seconds")
	m.replaced = desc("lockstep_volume_thinning_replaced_bytes_total", "Room of segments that thinning has replaced.")
	m.written = desc("lockstep_volume_thinning_written_bytes_total", "Room of segments that thinning has put in the place of others.")
	m.thinningUnderwayBytes = desc("lockstep_volume_thinning_underway_bytes", "Bytes that the rewrite under way reads.")
	m.thinningDoneBytes = desc("lockstep_volume_thinning_done_bytes", "Bytes that the rewrite under way has read.")
	m.short = desc("lockstep_volume_space_short", "1 while the file system below has too little room: history is given up, or writes are refused.")
	m.refused = desc("lockstep_volume_space_refused_total", "Appends that found no room at first.")
	m.givenUp = desc("lockstep_volume_space_given_up_bytes_total", "Journal that was given up for room before its time.")
	m.points = desc("lockstep_volume_space_points_given_up_total", "Times that what a replica kept for the newest recovery point of its group was given up for room.")
	return m
}

// Describe is that of prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range m.all {
		ch <- d
	}
}

// Journal gives the figures of a store's journal.
func (m *Metrics) Journal(ch chan<- prometheus.Metric, bytes, indexExtents int64, thinning *journal.ThinningStats, of ...string) {
	value(ch, m.journalBytes, prometheus.GaugeValue, float64(bytes), of...)
	value(ch, m.indexExtents, prometheus.GaugeValue, float64(indexExtents), of...)
	value(ch, m.checkpoints, prometheus.GaugeValue, float64(thinning.Checkpoints), of...)
	for _, tier := range thinning.Tiers {
		interval := "+Inf"
		if !tier.PinsOnly() {
			interval = strconv.FormatFloat(tier.Interval.Seconds(), 'f', -1, 64)
		}
		value(ch, m.historyBytes, prometheus.GaugeValue, float64(tier.Bytes), slices.Concat([]string{interval}, of)...)
	}
	value(ch, m.replaced, prometheus.CounterValue, float64(thinning.ReadBytes), of...)
	value(ch, m.written, prometheus.CounterValue, float64(thinning.WrittenBytes), of...)
	value(ch, m.thinningUnderwayBytes, prometheus.GaugeValue, float64(thinning.UnderwayBytes), of...)
	value(ch, m.thinningDoneBytes, prometheus.GaugeValue, float64(thinning.DoneBytes), of...)
}

// Space gives the figures of a store's lack of room.
func (m *Metrics) Space(ch chan<- prometheus.Metric, space *journal.SpaceStats, of ...string) {
	short := 0.0
	if space.IsShort() {
		short = 1
	}
	value(ch, m.short, prometheus.GaugeValue, short, of...)
	value(ch, m.refused, prometheus.CounterValue, float64(space.Refused), of...)
	value(ch, m.givenUp, prometheus.CounterValue, float64(space.GivenUpBytes), of...)
	value(ch, m.points, prometheus.CounterValue, float64(space.PointsGivenUp), of...)
}

// Checks gives the figures of what is looked for in a store, and found.
func (m *Metrics) Checks(ch chan<- prometheus.Metric, st *journal.Stats, scrub *journal.ScrubStats, of ...string) {
	value(ch, m.damaged, prometheus.GaugeValue, float64(st.Damaged), of...)
	value(ch, m.unrepairable, prometheus.GaugeValue, float64(st.Repairs.Unrepairable), of...)
	value(ch, m.repaired, prometheus.CounterValue, float64(st.Repairs.Repaired), of...)
	value(ch, m.wrongRepairs, prometheus.CounterValue, float64(st.Repairs.Refused), of...)
	value(ch, m.scrubRatio, prometheus.GaugeValue, scrub.Progress, of...)
	value(ch, m.unsummed, prometheus.GaugeValue, float64(scrub.UnsummedBase), of...)
	value(ch, m.scrubBytes, prometheus.CounterValue, float64(scrub.Bytes), of...)
	if !scrub.LastFull.IsZero() {
		value(ch, m.scrubLast, prometheus.GaugeValue, float64(scrub.LastFull.UnixNano())/1e9, of...)
	}
}

func value(ch chan<- prometheus.Metric, d *prometheus.Desc, kind prometheus.ValueType, v float64, of ...string) {
	ch <- prometheus.MustNewConstMetric(d, kind, v, of...)
}
