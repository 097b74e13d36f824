// Package groups keeps the consistency groups of one site: which there are and
// in what role, their checkpoints and recovery points, pins, rewinds,
// failovers, and what a peer's announcements make of them. Where the members'
// stores are, in this process or in others, is behind Members; how records get
// to the peer is behind Replicator.
//
// Invariants: a member admits changes only while its group's role on this site
// is primary; an operation that forks several members is written down before
// the first one forks, and is finished before the group does anything else,
// also after a crash.
//
// Goroutines: per primary group one coordinator and, where it replicates, one
// replication. Close ends and joins them all. TellEnds runs in its caller's.
//
// It knows nothing of CSI, of Kubernetes, or of where a store's files are.
package groups
