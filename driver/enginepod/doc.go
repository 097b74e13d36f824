// Package enginepod is the engine role of a cluster: one process with one
// volume's store, on the backing volume that is mounted at its directory. It
// does what it was last ordered: makes or opens the store, admits changes or
// not, serves the block device on its node through the node's holder, sends
// records to the peer or takes them from it.
//
// Orders, which directory is the volume's store, and the identity of its device are
// durable in the backing volume's engine.db, so that the process, started again by
// whomever, serves on without a controller.
//
// Invariants: no order replaces one of a higher term or revision; changes are
// admitted only as primary, writable, and with a valid lease where the backing
// volume needs one; of the devices that wait for an engine only the volume's last is
// taken over, and none once the volume has been without; a store whose journal failed
// is not used again by this process, which ends, and the next one recovers it.
//
// Goroutines: Run owns the servers, the journal's maintenance, the frontend of
// an attached device, one that carries out orders at a time, and one for a scrub that
// somebody waits for; it joins them all.
package enginepod
