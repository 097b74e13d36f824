package catalog

import "errors"

var (
	// ErrNotFound: the catalog has no such record.
	ErrNotFound = errors.New("not in the catalog")
	// ErrVersion: a record was written by a newer program.
	ErrVersion = errors.New("unknown record version")
	// ErrCorrupt: a record cannot be decoded.
	ErrCorrupt = errors.New("corrupt catalog record")
)
