package kv

import (
	"errors"

	"github.com/lockstep-csi/lockstep/internal/kv/pagecheck"
)

var (
	// ErrLocked: another process has the database open.
	ErrLocked = errors.New("database is locked by another process")
	// ErrClosed: the database was closed.
	ErrClosed = errors.New("database is closed")
	// ErrReadOnly: Put or Delete in a View.
	ErrReadOnly = errors.New("transaction is read-only")
	// ErrInvalidKey: a bucket's name, or a key, is empty or longer than
	// MaxKeyBytes.
	ErrInvalidKey = errors.New("invalid bucket name or key")
	// ErrPoisoned: a commit before this one failed after it may have reached
	// the disk. Which of the two states is there can only be known by opening
	// the database again, so no further Update is accepted.
	ErrPoisoned = errors.New("database is poisoned by a failed commit")
	// ErrCorrupt: a file is not what the database has written. The error is a
	// *CorruptError.
	ErrCorrupt = pagecheck.ErrCorrupt
	// ErrVersion: a database's file has a format that this program does not
	// know. The error is a *CorruptError.
	ErrVersion = pagecheck.ErrVersion
)

// CorruptError says where in the file what was found.
type CorruptError = pagecheck.Error

// MaxKeyBytes is the longest key, and the longest name of a bucket, in bytes.
const MaxKeyBytes = pagecheck.MaxKeyBytes

func checkKey(bucket string, key []byte) error {
	if bucket == "" || len(bucket) > MaxKeyBytes || len(key) == 0 || len(key) > MaxKeyBytes {
		return ErrInvalidKey
	}
	return nil
}
