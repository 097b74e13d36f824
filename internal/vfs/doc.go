// Package vfs is the file system below a store: what the journal does to a
// disk, and nothing that it does not do.
//
// FS and File are the seam. OS is the machine's file system. Mem is a
// simulated one that is as unhelpful as POSIX allows: what was not synced may
// or may not survive Mem.Crash, sector by sector and name by name, and a failed Sync
// leaves pages that read as written until they leave the cache. Fault wraps
// either and makes a chosen operation fail, or be the last before a crash.
// A crash test runs the code under test over Fault over Mem, crashes it at the
// k-th operation for every k, takes Mem.Crash, and looks at what is left.
//
// Invariants:
//   - An error that has a meaning for the caller matches one of this package's
//     sentinels and still matches the errno behind it.
//   - A call that returns fewer bytes than asked for returns an error too.
//   - Files are made with mode 0600 and directories with 0700.
//   - What Mem promises holds for OS on every file system that Linux has for
//     disks; one table of tests runs over both.
//
// The package starts no goroutines. It does not retry a failed Sync, cache
// anything, or interpret what is stored.
package vfs
