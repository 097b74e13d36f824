package noderole

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// collector reads a holder when it is asked.
type collector struct{ holder *holder.Holder }

var (
	nodeVolumes  = prometheus.NewDesc("lockstep_node_volumes", "Volumes that the holder keeps, by whether an engine serves them (served), none does (waiting), or it has not come back to this process (away).", []string{"state"}, nil)
	nodeDevices  = prometheus.NewDesc("lockstep_node_devices", "Devices that are attached, by how their requests come from the kernel (dev-fuse, io-uring).", []string{"transport"}, nil)
	nodeAttaches = prometheus.NewDesc("lockstep_node_attaches_total", "Devices made.", nil, nil)
	takeovers    = prometheus.NewDesc("lockstep_node_takeovers_total", "Descriptors handed to another engine than the first.", nil, nil)
	revoked      = prometheus.NewDesc("lockstep_node_revoked_total", "Devices taken away because their volumes were not attached to this node any more, or had another device since, and no engine served them.", nil, nil)
	restores     = prometheus.NewDesc("lockstep_node_restores_total", "Descriptors that engines brought back to this process, by outcome.", []string{"outcome"}, nil)
)

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodeVolumes, nodeDevices, nodeAttaches, takeovers, restores, revoked} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	states := map[string]int{"served": 0, "waiting": 0, "away": 0}
	transports := map[fuse.Transport]int{fuse.TransportDevice: 0, fuse.TransportRing: 0}
	for _, v := range c.holder.Volumes() {
		if v.Transport != "" {
			transports[v.Transport]++
		}
		switch {
		case v.Away:
			states["away"]++
		case v.Leased:
			states["served"]++
		default:
			states["waiting"]++
		}
	}
	for state, n := range states {
		ch <- prometheus.MustNewConstMetric(nodeVolumes, prometheus.GaugeValue, float64(n), state)
	}
	for transport, n := range transports {
		ch <- prometheus.MustNewConstMetric(nodeDevices, prometheus.GaugeValue, float64(n), string(transport))
	}
	counts := c.holder.Counters()
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	count(nodeAttaches, counts.Attaches)
	count(takeovers, counts.Takeovers)
	count(restores, counts.Restores, "taken")
	count(restores, counts.Refused, "refused")
	count(revoked, counts.Revoked)
}
