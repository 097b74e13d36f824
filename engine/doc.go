// Package engine serves one open store as a block device.
//
// An Engine admits reads and changes from frontends, gives changes their
// order by appending them to the journal, and takes part in its group's
// checkpoints through a barrier (Prepare, Commit, Abort). It owns the store
// it was given and one goroutine that keeps the journal in shape.
//
// Invariants: a change is acknowledged only after it has its place in the
// journal; Flush is acknowledged only after the journal is durable up to
// every change acknowledged before; while a barrier is held no change is
// admitted, and a barrier never outlives its deadline.
//
// The package knows nothing of CSI, Kubernetes or of how a device is shown to
// the kernel; that is in the packages below frontend.
package engine
