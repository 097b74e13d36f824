package pagecheck

import (
	"errors"
	"fmt"
)

var (
	// ErrCorrupt: the file is not what bbolt has written.
	ErrCorrupt = errors.New("database is corrupt")
	// ErrVersion: the database has a format that this program does not know.
	ErrVersion = errors.New("unknown database version")
)

// Error says where a file is not what bbolt writes. It matches ErrCorrupt, or
// ErrVersion where Kind says so.
type Error struct {
	Page   uint64 // the page that the structure is in
	Offset int64  // of the structure in the file, bytes
	What   string // the structure: "page header", "leaf element", …
	Wanted string
	Found  string
	Kind   error // ErrCorrupt when nil
}

// Error names page, offset, wanted and found.
func (e *Error) Error() string {
	return fmt.Sprintf("%s at offset %d, in page %d: %v: wanted %s, found %s", e.What, e.Offset, e.Page, e.Unwrap(), e.Wanted, e.Found)
}

// Unwrap returns the sentinel that this error is of.
func (e *Error) Unwrap() error {
	if e.Kind != nil {
		return e.Kind
	}
	return ErrCorrupt
}
