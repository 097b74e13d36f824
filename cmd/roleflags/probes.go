package roleflags

import "github.com/spf13/pflag"

// Probes says where a role of a cluster answers those who look after it.
type Probes struct {
	MetricsAddr string
	HealthAddr  string
}

// Register adds the flags.
func (f *Probes) Register(flags *pflag.FlagSet) {
	flags.StringVar(&f.MetricsAddr, "metrics-addr", "", "host:port that serves Prometheus metrics; empty: none")
	flags.StringVar(&f.HealthAddr, "health-addr", "", "host:port that serves /healthz and /readyz; empty: none")
}

// Validate checks the addresses.
func (f *Probes) Validate() error {
	return ValidateAddresses(map[string]string{"--metrics-addr": f.MetricsAddr, "--health-addr": f.HealthAddr})
}
