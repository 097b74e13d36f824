// Package operator is what the controller role does in Kubernetes beside CSI: it
// reads of claims, workloads and namespaces which group a volume is in, and
// keeps the custom resources of api/v1alpha1. docs/kubernetes.md specifies it.
//
//	claim.go, decide.go   what a claim says, and which group it is in
//	membership.go         moves volumes whose group has changed
//	group*.go             ConsistencyGroup: settings in, status and events out
//	recovery*.go, ...     Recovery: the phases of a rewind, undo, commit, failover
//	site.go, peers.go     Site: connections to peers
//
// Invariants: what the API server holds is all that is remembered, so that each
// step may be taken again after a crash of the controller; nothing that was
// scaled down is forgotten, because its size is in the status before; a volume
// is moved only by what a claim says now, and stays where it is while nothing
// uses its claim.
//
// Goroutines: those of controller-runtime's manager, between the start and the
// end of Run, and one connection for each peer, which Peers.Close ends.
//
// It makes no backing volumes and no engines, and takes no points.
package operator
