package journal

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// maxDamagePlaces bounds what is remembered, and logged, of damage. Beyond it
// reads fail all the same.
const maxDamagePlaces = 1024

// damageLog remembers where damage was found, so that each place is logged once
// and counted. Its methods may be called concurrently.
type damageLog struct {
	mu      sync.Mutex
	places  map[damagePlace]*knownDamage
	changes uint64 // of the list
}

type damagePlace struct {
	file string
	off  int64
}

type knownDamage struct {
	CorruptError
	pass  uint64    // of the scrub, when it was last met
	tried time.Time // when nobody could help with it; zero: nobody was asked
	// reason is why nobody could, for people; empty while that is not known.
	reason string
}

// note remembers damage and reports whether it was not known before.
func (l *damageLog) note(c *CorruptError, pass uint64) (fresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	place := damagePlace{c.File, c.Offset}
	if known, ok := l.places[place]; ok {
		known.pass = pass
		return false
	}
	if len(l.places) == maxDamagePlaces {
		return false
	}
	if l.places == nil {
		l.places = map[damagePlace]*knownDamage{}
	}
	l.places[place] = &knownDamage{CorruptError: *c, pass: pass}
	l.changes++
	return true
}

// healed forgets damage in a range of a file that was written anew.
func (l *damageLog) healed(file string, off, length int64) {
	l.forget(func(at damagePlace, _ *knownDamage) bool {
		return at.file == file && at.off >= off && at.off < off+length
	})
}

func (l *damageLog) forget(gone func(damagePlace, *knownDamage) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for at, known := range l.places {
		if gone(at, known) {
			delete(l.places, at)
			l.changes++
		}
	}
}

func (l *damageLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.places)
}

// DamagedPlace is a place that is known to be damaged.
type DamagedPlace struct {
	CorruptError
	// Reason is why it could not be repaired, for people; empty while nobody tried.
	Reason string
}

// Damaged returns what is known to be damaged, in the order of files and offsets,
// at most maxDamagePlaces of it: what reads, destage and the scrub have met since
// Open, and what the catalog knew then (see keepDamage), without what was written anew
// or dropped since.
func (s *Store) Damaged() []CorruptError {
	places := s.DamagedPlaces()
	out := make([]CorruptError, len(places))
	for i := range places {
		out[i] = places[i].CorruptError
	}
	return out
}

// DamagedPlaces is Damaged with the reasons why it is not repaired.
func (s *Store) DamagedPlaces() []DamagedPlace {
	s.damage.mu.Lock()
	defer s.damage.mu.Unlock()
	out := make([]DamagedPlace, 0, len(s.damage.places))
	for _, known := range s.damage.places {
		out = append(out, DamagedPlace{known.CorruptError, known.reason})
	}
	slices.SortFunc(out, func(a, b DamagedPlace) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Offset, b.Offset))
	})
	return out
}

// noteDamage logs an error that names damage, the first time that the place is
// met, and returns it.
func (s *Store) noteDamage(err error) error {
	var c *CorruptError
	if errors.As(err, &c) && s.damage.note(c, s.scrub.pass.Load()) {
		s.cfg.Log.Error("damage found", "volume", s.volume, "file", c.File, "offset", c.Offset, "what", c.What, "wanted", c.Wanted, "found", c.Found)
		wake(s.repairs.wanted)
	}
	return err
}

// unreadError says that the disk did not give a part of a segment or of the base, which is not known to be
// damaged: whoever asked for it may ask again.
type unreadError struct {
	file string
	off  int64
	err  error
}

func unread(file string, off int64, err error) error {
	if err == nil {
		return nil
	}
	return &unreadError{file, off, err}
}

func (e *unreadError) Error() string {
	return fmt.Sprintf("read %s at offset %d: %v", e.file, e.off, e.err)
}
func (e *unreadError) Unwrap() error { return e.err }

// asDamage takes what the disk does not give for damage, as the scrub does: it may be repaired
// as such, and it stops what needs it and nothing else. Not of a store that is closed or
// poisoned, whose disk is not to blame.
func (s *Store) asDamage(err error) error {
	if err == nil {
		return nil
	}
	var u *unreadError
	if errors.Is(err, ErrCorrupt) || !errors.As(err, &u) || s.check() != nil {
		return err
	}
	return fmt.Errorf("%w (%w)", &CorruptError{File: u.file, Offset: u.off, What: "content", Wanted: "to be readable", Found: u.err.Error()}, u.err)
}
