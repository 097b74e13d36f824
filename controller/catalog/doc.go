// Package catalog is the controller's durable memory: volumes, the pins,
// snapshots and group snapshots made of them, groups, and where volumes are
// published.
//
// Records say what is intended before anything is done and what is true
// after it was done, so that a controller that was killed between the two
// finds out at its next start what it has to finish or to undo: see the State
// of each record. Related records change in one transaction.
//
// Values are JSON inside an envelope with a version; a version that this
// program does not know is ErrVersion, never guessed at. The package owns no
// goroutine, makes no decision about volumes, and knows nothing of CSI.
package catalog
