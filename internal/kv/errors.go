package kv

import "errors"

var (
	// ErrLocked: another process has the database open.
	ErrLocked = errors.New("database is locked by another process")
	// ErrClosed: the database was closed.
	ErrClosed = errors.New("database is closed")
	// ErrReadOnly: Put or Delete in a View.
	ErrReadOnly = errors.New("transaction is read-only")
	// ErrInvalidKey: a bucket's name is empty, or a key is empty or longer
	// than MaxKeyBytes.
	ErrInvalidKey = errors.New("invalid bucket name or key")
	// ErrPoisoned: a commit before this one failed after it may have reached
	// the disk. Which of the two states is there can only be known by opening
	// the database again, so no further Update is accepted.
	ErrPoisoned = errors.New("database is poisoned by a failed commit")
)

// MaxKeyBytes is the longest key, in bytes.
const MaxKeyBytes = 32768

func checkKey(bucket string, key []byte) error {
	if bucket == "" || len(key) == 0 || len(key) > MaxKeyBytes {
		return ErrInvalidKey
	}
	return nil
}
