// Package objectdb is a kv.DB whose content lives in ConfigMaps of one
// namespace, so that a cluster's controller needs no storage of its own
// (docs/kubernetes.md, "Catalog", is normative for the objects).
//
// A transaction is one update of one object, the commit, which holds all its
// changes. It is also the fence: it is updated with the resourceVersion that
// this process wrote last, and whoever opens the database writes itself into
// it, so that an earlier process can never commit again. The other objects,
// the entries, follow the commit and may lag behind; Open applies the last
// commit again.
//
// Invariants:
//
//   - A commit is written only when every entry of the one before it has been.
//   - Whether a commit was written is never guessed: when an answer is lost, the
//     same write is repeated until the API server says which it was.
//   - Entries are slots that are used again and never deleted. So a request of a
//     dead process, or of this one, that reaches the server late finds a newer
//     resourceVersion, or the object there, and fails: nothing comes back to
//     life.
//   - View reads memory and never waits for the API server.
//
// A person's edit of an object while the database is open is found by Run,
// said, and taken back. One that was made while it was closed is found by Open.
//
// The package starts no goroutines but those of Run and, within Update, those
// that write entries; each joins its own.
package objectdb
