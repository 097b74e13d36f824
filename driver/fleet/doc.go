// Package fleet is the data plane of a site whose engines are pods: it knows
// the site's volumes, has an engine run where one is wanted, tells each engine
// what to do, and is where the groups of package driver/groups find their
// members. How a backing volume and an engine's process come to be is behind
// Backing and Engines; the package knows nothing of CSI and of Kubernetes.
//
// Invariants: at most one engine of a volume is asked for at a time, and the
// next one only after Engines.Stop has returned for the last; orders are saved
// before they are sent, and every change of them has a higher revision; a
// volume's record exists before, and until after, anything of it exists
// elsewhere. Each call of an engine tells the number of this controller, which is above those
// of all before it: engines do nothing for one that was replaced.
//
// A volume of a group that is replicated keeps its engine until the peer has
// everything of it. A replica is its primary's: it is not deleted here as long as
// that feeds it, and stays when that has deleted it, until RemoveReplica.
//
// Goroutines: one per volume that keeps its engine running and watches it, one
// per replica whose backing volume has to grow, one that tells peers of groups
// that have ended. Close ends and joins them; engines go on without the
// controller.
package fleet
