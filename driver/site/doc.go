// Package site is the data plane of one site in one process: it opens stores,
// runs their engines, keeps groups and their checkpoints, provides devices,
// replicates, rewinds and fails over. It knows nothing of CSI; the CSI
// services, the admin API and the replication service are served by others
// that call it.
//
// Invariants: a volume's store is open for as long as its record exists; an
// engine admits changes only while its group's role on this site is primary;
// an operation that forks several volumes is written down before the first
// one forks, and finished at the next start if it was interrupted.
//
// Goroutines: per open volume one that maintains the journal and, while
// attached, those of its frontend; per primary group one coordinator and, where
// it replicates, one sender; one for each member of an open fork, one that looks after
// the forks, one after the points of replicas, one after devices that could not be
// taken over, and one after operations that could not be finished; per open volume another
// one that waits for a loss of what its device's users count on. Close ends and joins them
// all.
package site
