// Package backing makes and keeps the claims that stores live on, in the
// driver's namespace, of storage classes that somebody else provides
// (docs/kubernetes.md, "Creating a volume").
//
// A volume has one claim, or two when its journal has a class of its own. They
// are found by name and labels, so every call may be repeated, by another
// process too, after a crash at any step. Nothing is made that a later Delete
// does not find.
//
// The package decides nothing about engines; it starts no goroutines that
// outlive a call.
package backing
