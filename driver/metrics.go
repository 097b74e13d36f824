package driver

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/lockstep-csi/lockstep/driver/groupmetrics"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/driver/storemetrics"
	"github.com/lockstep-csi/lockstep/internal/clock"
)

// siteCollector reads a site's figures when metrics are asked for.
type siteCollector struct{ site *site.Site }

var (
	volumeLabels = []string{"volume", "group"}
	forkLabels   = []string{"fork", "group"}
	storeMetrics = storemetrics.New(volumeLabels)

	volumeFailed   = prometheus.NewDesc("lockstep_volume_failed", "1 if an error stopped the volume.", volumeLabels, nil)
	deviceUnserved = prometheus.NewDesc("lockstep_volume_device_unserved", "1 if the volume is attached and its device not served: I/O on it waits, or fails.", volumeLabels, nil)
	lagSeconds     = prometheus.NewDesc("lockstep_volume_lag_seconds", "How far the replica is behind.", volumeLabels, nil)
	lagRecords     = prometheus.NewDesc("lockstep_volume_lag_records", "Durable records that the replica does not hold.", volumeLabels, nil)
	forkUsed       = prometheus.NewDesc("lockstep_fork_used_bytes", "What was written to a writable fork, of its quota.", forkLabels, nil)
	forkQuota      = prometheus.NewDesc("lockstep_fork_quota_bytes", "What may be written to a writable fork.", forkLabels, nil)
	forkHeld       = prometheus.NewDesc("lockstep_fork_held_bytes", "Room of the journals that a writable fork keeps from being destaged.", forkLabels, nil)
	forkExpires    = prometheus.NewDesc("lockstep_fork_expires_timestamp_seconds", "When a writable fork is given up.", forkLabels, nil)
	forkGivenUp    = prometheus.NewDesc("lockstep_fork_given_up", "1 if the site gave a writable fork up.", forkLabels, nil)
	replicaPresent = prometheus.NewDesc("lockstep_volume_replicating", "1 while the replica is connected.", volumeLabels, nil)
)

// newRegistry has the figures of a site; gone is closed once its holder is gone.
func newRegistry(s *site.Site, gone <-chan struct{}) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "lockstep_site_holder_gone", Help: "1 if the process that keeps the block devices is gone: they fail when the site ends.",
	}, func() float64 {
		select {
		case <-gone:
			return 1
		default:
			return 0
		}
	}))
	r.MustRegister(siteCollector{s}, groupmetrics.New(s.Groups(), clock.Wall{}), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Describe implements prometheus.Collector.
func (c siteCollector) Describe(ch chan<- *prometheus.Desc) {
	storeMetrics.Describe(ch)
	for _, d := range []*prometheus.Desc{volumeFailed, deviceUnserved, lagSeconds, lagRecords, replicaPresent, forkUsed, forkQuota, forkHeld, forkExpires, forkGivenUp} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c siteCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, v := range c.site.Volumes() {
		id := v.ID.String()
		gauge(volumeFailed, truth(v.Err != nil), id, v.Group)
		gauge(deviceUnserved, truth(v.DeviceErr != nil), id, v.Group)
		storeMetrics.Journal(ch, v.Stats.JournalBytes, v.Stats.IndexExtents, &v.Stats.Thinning, id, v.Group)
		storeMetrics.Space(ch, &v.Stats.Space, id, v.Group)
		storeMetrics.Checks(ch, &v.Stats, &v.Scrub, id, v.Group)
	}
	for _, f := range c.site.ListForks() {
		gauge(forkUsed, float64(f.UsedBytes), f.Name, f.Group)
		gauge(forkQuota, float64(f.QuotaBytes), f.Name, f.Group)
		gauge(forkHeld, float64(f.HeldBytes), f.Name, f.Group)
		gauge(forkExpires, float64(f.Expires.Unix()), f.Name, f.Group)
		gauge(forkGivenUp, truth(f.State == site.ForkGivenUp), f.Name, f.Group)
	}
	for _, name := range c.site.Groups().Groups() {
		sending := c.site.Groups().Sending(name)
		if sending == nil {
			continue
		}
		for _, v := range sending.Volumes {
			gauge(lagSeconds, v.LagTime.Seconds(), v.Volume.String(), name)
			gauge(lagRecords, float64(v.LagRecords), v.Volume.String(), name)
			gauge(replicaPresent, truth(v.Connected), v.Volume.String(), name)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
