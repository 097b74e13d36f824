package gateway

import (
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"
)

// metrics are what a gateway counts, by the peer's site.
type metrics struct {
	streams       *prometheus.GaugeVec
	endedStreams  *prometheus.CounterVec
	bytes         *prometheus.CounterVec
	announcements *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lockstep_gateway_streams", Help: "Streams that are carried now.",
		}, []string{"peer"}),
		endedStreams: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lockstep_gateway_streams_ended_total", Help: "Streams that have ended, also before an engine was found, by gRPC code.",
		}, []string{"peer", "code"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lockstep_gateway_bytes_total", Help: "Messages of streams as they travel: in from the peer, out to it.",
		}, []string{"peer", "direction"}),
		announcements: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lockstep_gateway_announcements_total", Help: "Announcements that were passed on to the controller, by gRPC code of the answer.",
		}, []string{"peer", "code"}),
	}
}

// ended counts a stream that has ended.
func (m *metrics) ended(peer string, err error) {
	code := status.FromContextError(err).Code()
	if st, ok := status.FromError(err); ok {
		code = st.Code()
	}
	m.endedStreams.WithLabelValues(peer, code.String()).Inc()
}

// Describe implements prometheus.Collector.
func (g *Gateway) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range g.collectors() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (g *Gateway) Collect(ch chan<- prometheus.Metric) {
	for _, c := range g.collectors() {
		c.Collect(ch)
	}
}

func (g *Gateway) collectors() []prometheus.Collector {
	return []prometheus.Collector{g.metrics.streams, g.metrics.endedStreams, g.metrics.bytes, g.metrics.announcements}
}
