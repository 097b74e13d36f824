package journal

import (
	"errors"
	"fmt"
)

var (
	// ErrCorrupt: stored or received bytes are not what was written. Errors
	// of this kind that come from a store are a *CorruptError.
	ErrCorrupt = errors.New("corrupt")
	// ErrVersion: a format version that this program does not know.
	ErrVersion = errors.New("unknown format version")
	// ErrForeign: the store, segment or record belongs to another volume, or the
	// journal's directory to another store.
	ErrForeign = errors.New("belongs to another volume")
	// ErrNotStore: the directory holds no store, or one whose creation did
	// not finish.
	ErrNotStore = errors.New("not a lockstep store")
	// ErrNoJournal: the store's journal is in a directory of its own, which
	// was not given, or which is not there: its disk is not mounted, perhaps.
	ErrNoJournal = errors.New("the store's journal directory is missing")
	// ErrOverlay: the directory holds the overlay of a writable fork, which is
	// nothing without what it lies over.
	ErrOverlay = errors.New("an overlay of another store, not a store by itself")
	// ErrExists: Create found a store in the directory.
	ErrExists = errors.New("store already exists")
	// ErrInUse: another process has the store open.
	ErrInUse = errors.New("store is in use by another process")
	// ErrFull: the backing volume, or the journal's own, has no room for what is
	// to be written. Nothing was; the store is intact and the call may be
	// repeated.
	ErrFull = errors.New("no space for the journal on the backing volume")
	// ErrPoisoned: a write or sync failed earlier; wrapped around its cause.
	// The store must be closed and opened again, which recovers it.
	ErrPoisoned = errors.New("store poisoned by an earlier I/O error")
	// ErrTailLost: a sync of the journal failed, and records that were appended, and
	// acknowledged, without having been flushed may have gone with it: the system takes
	// what it could not write for written, and tells so once. One that was not tried
	// (vfs.ErrRefused) takes nothing. A store that fails so is poisoned, too; Open fails
	// so, once, where nobody else was told. Who relies on what was appended, as the users
	// of a device do, has to be told before the next Open.
	ErrTailLost = errors.New("records that were not flushed may be lost")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store is closed")
	// ErrRange: an offset or length outside the volume or not a multiple of
	// SectorBytes.
	ErrRange = errors.New("offset or length out of range")
	// ErrHorizon: the position is older than what the store can still open.
	ErrHorizon = errors.New("position is before the horizon")
	// ErrUnknownPosition: no such timeline, or a seq that it does not have.
	ErrUnknownPosition = errors.New("unknown position")
	// ErrGap: records do not begin behind the store's tip.
	ErrGap = errors.New("record does not follow the tip")
	// ErrDiverged: the active timeline changed, and the position that a
	// reader stood at is not on the new one's path.
	ErrDiverged = errors.New("position is not on the active timeline's path")
	// ErrPinExists: a pin of that name holds another position.
	ErrPinExists = errors.New("pin already holds another position")
	// ErrLeftName: a store was made of an image whose old name could not be
	// removed. The store is whole; writing to the file by that name damages it.
	ErrLeftName = errors.New("the store is whole, and its base image still has another name")
	// ErrThinned: the position lies between two kept checkpoints that are old
	// enough to have been thinned. Errors of this kind are a *ThinnedError.
	ErrThinned = errors.New("position was thinned out of the history")
	// ErrHeld: a view, pin or reader still needs what the call would drop.
	ErrHeld = errors.New("still needed by a view or pin")
)

// CorruptError says where bytes were found that are not what was written. It
// matches ErrCorrupt, or ErrForeign / ErrVersion where Kind says so.
type CorruptError struct {
	File   string // path of the file below the store's directory, or "wire"
	Offset int64  // of the damaged structure in File, bytes
	What   string // the structure: "record header", "payload", …
	Wanted string
	Found  string
	Kind   error // ErrCorrupt when nil
}

// Error names file, offset, wanted and found.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s at offset %d of %s: %v: wanted %s, found %s", e.What, e.Offset, e.File, e.Unwrap(), e.Wanted, e.Found)
}

// Unwrap returns the sentinel that this error is of.
func (e *CorruptError) Unwrap() error {
	if e.Kind != nil {
		return e.Kind
	}
	return ErrCorrupt
}
