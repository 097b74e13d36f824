// Package kv is the seam below everything that keeps small state: an ordered
// key-value database with atomic, durable transactions.
//
// The product uses OpenBolt (go.etcd.io/bbolt), which has the pages of a file
// checked before bbolt maps it (package pagecheck). Simulations use Memory, whose
// committed state lives with a simulated file system and which can be made to
// crash before or after a commit.
//
// Invariants, of both: a transaction's changes are durable together or not at
// all; a View sees one committed state from its first to its last read; a
// commit that may have half reached the disk is never followed by another.
//
// Neither owns a goroutine. The package does not interpret keys or values, and
// does not nest buckets.
package kv
