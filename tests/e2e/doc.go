// Package e2e tests Lockstep in real Kubernetes clusters, and holds what such
// tests are written with: a Cluster, a Namespace for each test that is taken
// away with all that it holds, pods, claims, fio with verification,
// PostgreSQL with a ledger of acknowledged transactions, and figures.
//
// The tests have the build tag e2e and are run by tools/e2e.sh, which makes the
// clusters with tests/cluster or takes those of KUBECONFIG_A and KUBECONFIG_B.
// README.md tells what a run can be given.
//
// Functions that take or hold a testing.TB fail the test and may only be
// called from its goroutine; those that return an error may be called from
// any. Every wait has a bound and says, when it is reached, what was awaited
// and what was there instead.
package e2e
