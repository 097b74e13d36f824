// Package journal is the store of one volume: a base image overlaid with an
// ordered journal of records, so that any position of the recent past can be
// opened, forked or shipped without a copy.
//
//	view(position) = base, then every record on the path from the horizon to
//	the position; the last writer of a sector wins
//
// A Store appends records (Write, Discard, Zero, Checkpoint, Resize, and
// AppendRecords for those that another site's store made), makes them durable
// (Flush), reads the live volume (ReadAt) and any position inside the horizon
// (View), begins a timeline at one (Fork, Adopt), yields durable records in
// order (Records), moves what has left the window into the base, and thins what
// has left the first tier of its History, or what has left the window and lies
// between pins (Maintain), or moves everything into the base (Drain). Create and NewImport make a store, TakeImage makes one of an image
// without a copy, and Open recovers one. Verify, Dump and OpenReadOnly look at
// one that nobody has open, and change nothing. RemoveJournal removes a journal
// that has a directory of its own. The files are described in
// docs/format.md.
//
// # Invariants
//
//   - Records of a timeline are appended, and shipped, with seqs without gaps;
//     of what was thinned some are gone. A position (timeline, seq)
//     never stands for two different states, on any site: after an unclean stop
//     a local append begins a timeline of its own.
//   - What Flush has acknowledged is there after every crash. What was appended
//     after it is there up to some record, and nothing behind that one.
//   - A torn tail is cut off; damage to what was durable is an error that names
//     file, offset, wanted and found, and nothing on disk is changed.
//   - After a write, sync or commit of unknown outcome the store is poisoned:
//     nothing more is acknowledged until it has been closed and opened again.
//   - A journal in a directory of its own is bound to its store: what is missing
//     or another's is an error, never an empty journal.
//   - A lack of space is ErrFull, before anything was written.
//   - No read returns bytes that do not fit their checksum, be they a record's or
//     the base's. What is damaged fails alone, and is remembered: see Damaged.
//   - An index run is derived and never believed without its checksums: one that
//     is missing, stale or damaged costs time and changes no answer.
//   - What History keeps, and what is pinned, forked at or held, reads the same
//     before and after thinning. Anything else that it has dropped is refused
//     with ErrThinned, never shown as a mixture.
//   - A position that a View, a pin or a RecordReader holds stays open:
//     destage waits for it. A segment's file is reused when its last user lets
//     go of it.
//
// # What it does not do
//
// The package starts no goroutine that outlives a call: its owner calls Run,
// or Maintain. It does not order writes that overlap in time: the order in
// which the calls take the append lock is the order in the journal. It
// repairs damage only with what somebody brings from another store of the volume. It takes no checkpoints by itself,
// and knows nothing of groups, terms, devices or Kubernetes.
package journal
