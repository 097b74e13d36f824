// Package orphan finds what was made for volumes that are no more, and sweeps
// what of it can be taken away without asking anybody (docs/kubernetes.md,
// "Orphans").
//
// Everything that the driver makes in its namespace for a volume has the
// volume's label. What the catalog of the site does not know is an orphan:
// another release's, a lost catalog's, or what a removal by hand left.
//
// A volume that the catalog has, that nobody has ever used, and whose claim is gone
// is swept too, unless it is a copy of another one. Such a volume is left when a
// claim is deleted while its volume is made, and the controller's pod ends before the
// provisioner in it hears that the volume is ready: nobody then asks for it, nor for
// its deletion.
//
// Invariants: an object is listed before the catalog and the cluster's volumes
// are asked, since a volume is in the catalog before anything is made for it,
// and until all of it is gone. The sweep deletes nothing that may hold data, and
// nothing of a volume that a PersistentVolume of this driver names, whatever the
// catalog says: a catalog that was lost must not stop what is in use.
//
// Sweeper.Run owns no goroutine but its caller's.
package orphan
