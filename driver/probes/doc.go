// Package probes serves what a role of a cluster tells those who look after
// it, over plain HTTP: /healthz, which answers as long as the process does not
// hang; /readyz, which answers while it does its work; and /metrics. A probe
// never waits for another role.
package probes
