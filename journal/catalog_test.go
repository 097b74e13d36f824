package journal

import (
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// TestDamagedDatabaseInOurWords: what the database says of its file is an error
// of the store's, with the place in the file.
func TestDamagedDatabaseInOurWords(t *testing.T) {
	for kind, want := range map[error]error{nil: ErrCorrupt, kv.ErrVersion: ErrVersion} {
		err := damagedDatabase(&kv.CorruptError{Page: 3, Offset: 12304, What: "element", Wanted: "a key", Found: "none", Kind: kind})
		var c *CorruptError
		if !errors.Is(err, want) || !errors.As(err, &c) || c.File != catalogFile || c.Offset != 12304 {
			t.Errorf("%v: got %v, want %v at its place", kind, err, want)
		}
		if text := "element of database page 3 at offset 12304 of catalog.db: " + want.Error() + ": wanted a key, found none"; err.Error() != text {
			t.Errorf("got %q, want %q", err, text)
		}
	}
}
