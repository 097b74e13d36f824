package kv

import (
	"errors"
	"testing"
)

// doubtful is a database whose next commit fails after it may have reached the disk, if
// it is to.
type doubtful struct {
	DB
	fails    error
	poisoned bool
}

func (d *doubtful) Update(fn func(Tx) error) error {
	if d.poisoned {
		return ErrPoisoned
	}
	err := d.DB.Update(fn)
	if err == nil && d.fails != nil {
		d.poisoned = true
		return d.fails
	}
	return err
}

// TestWatchTellsOfAPoisonedDatabase, once, and of no other failure.
func TestWatchTellsOfAPoisonedDatabase(t *testing.T) {
	db := &doubtful{DB: NewMemory()}
	var told []error
	w := Watch(db, func(err error) { told = append(told, err) })
	put := func(tx Tx) error { return tx.Put("b", []byte("k"), []byte("v")) }
	refused := errors.New("refused")
	if err := w.Update(func(Tx) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("update: %v, want what it was refused with", err)
	}
	if err := errors.Join(w.Update(put), Settled(w)); err != nil {
		t.Error(err)
	}
	if len(told) != 0 {
		t.Fatalf("told of %v by a database that takes updates", told)
	}
	db.fails = errors.New("sync: input/output error")
	for range 2 {
		if err := w.Update(put); err == nil {
			t.Error("the update succeeded")
		}
	}
	if len(told) != 1 || !errors.Is(told[0], db.fails) {
		t.Errorf("told %v, want the failed commit once", told)
	}
}
