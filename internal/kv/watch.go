package kv

import (
	"errors"
	"sync"
)

// Watch returns a database that calls poisoned, once, when an update of db has failed of
// which it is unknown whether its changes are on disk, with what it failed with; before
// Update returns. From then on every Update is ErrPoisoned, and only who opens the
// database anew finds out. poisoned must not call the database.
func Watch(db DB, poisoned func(error)) DB {
	return &watched{DB: db, poisoned: poisoned}
}

type watched struct {
	DB
	once     sync.Once
	poisoned func(error)
}

func (w *watched) Update(fn func(Tx) error) error {
	err := w.DB.Update(fn)
	if err != nil && errors.Is(Settled(w.DB), ErrPoisoned) {
		w.once.Do(func() { w.poisoned(err) })
	}
	return err
}
