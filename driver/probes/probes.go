package probes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
)

// Config says what is served.
type Config struct {
	MetricsAddr string // host:port; empty: no metrics
	HealthAddr  string // host:port; empty: no probes
	// Metrics are the role's own; those of the process are added.
	Metrics []prometheus.Collector
	// Ready returns nil while the role does its work, else what is missing. It
	// must not wait.
	Ready func() error
}

// headerTimeout bounds how long a client may take to ask.
const headerTimeout = 10 * time.Second

// Run serves until ctx ends or a listener fails.
func Run(ctx context.Context, cfg Config) error {
	serving, ctx := errgroup.WithContext(ctx)
	if cfg.MetricsAddr != "" {
		registry := prometheus.NewRegistry()
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		registry.MustRegister(cfg.Metrics...)
		mux := http.NewServeMux()
		mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
		serving.Go(func() error { return serve(ctx, cfg.MetricsAddr, mux) })
	}
	if cfg.HealthAddr != "" {
		mux := http.NewServeMux()
		mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { ok(w) })
		mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
			if err := cfg.Ready(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			ok(w)
		})
		serving.Go(func() error { return serve(ctx, cfg.HealthAddr, mux) })
	}
	return serving.Wait()
}

// ok answers; who asked and went away gets nothing.
func ok(w http.ResponseWriter) { _, _ = fmt.Fprintln(w, "ok") }

func serve(ctx context.Context, address string, handler http.Handler) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen for probes: %w", err)
	}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve probes on %s: %w", address, err)
	case <-ctx.Done():
	}
	err = srv.Close()
	if ended := <-ended; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}
