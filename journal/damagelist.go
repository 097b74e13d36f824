package journal

import (
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// What is known to be damaged is kept in the catalog, so that a store that is opened
// again does not pass for whole until something meets the damage anew. The list is a
// help and no truth: it may miss what was found in the last seconds before a crash, and
// have what was mended then. A pass of the scrub that reads all sets it right.

const (
	// maxKeptDamage and maxKeptText bound the value: places, and bytes of each text.
	maxKeptDamage = 64
	maxKeptText   = 160
)

// damageList is a value of the catalog.
type damageList struct {
	Places []keptDamage
}

// keptDamage is one place, in the words of its CorruptError.
type keptDamage struct {
	File   string
	Offset int64
	What   string
	Wanted string
	Found  string
}

func decodeDamage(b []byte) (damageList, error) {
	var l damageList
	if b == nil {
		return l, nil
	}
	if err := decodeValue(bucketMeta, keyDamage, b, &l); err != nil {
		return damageList{}, err
	}
	if len(l.Places) > maxKeptDamage {
		return damageList{}, badValue(bucketMeta, keyDamage, fmt.Sprintf("at most %d places", maxKeptDamage), len(l.Places))
	}
	for _, d := range l.Places {
		if d.File == "" || d.Offset < 0 {
			return damageList{}, badValue(bucketMeta, keyDamage, "places in files", fmt.Sprintf("%+v", d))
		}
	}
	return l, nil
}

// damageList is what is to be kept, and the state of the log that it is of.
func (s *Store) damageList() (l damageList, changes uint64) {
	s.damage.mu.Lock()
	changes = s.damage.changes
	s.damage.mu.Unlock()
	for _, c := range s.Damaged() {
		if len(l.Places) == maxKeptDamage {
			break
		}
		l.Places = append(l.Places, keptDamage{c.File, c.Offset, cutText(c.What), cutText(c.Wanted), cutText(c.Found)})
	}
	return l, changes
}

func cutText(text string) string { return text[:min(len(text), maxKeptText)] }

// keepDamage writes the list to the catalog if it has changed since it was written.
// Where there is no room it is tried again.
func (s *Store) keepDamage() error {
	l, changes := s.damageList()
	if changes == s.damageKept.Load() {
		return nil
	}
	err := s.commit(func(tx kv.Tx) error {
		if len(l.Places) == 0 {
			return tx.Delete(bucketMeta, keyDamage)
		}
		return s.cat.put(tx, bucketMeta, keyDamage, l)
	})
	if errors.Is(err, ErrFull) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keep what is damaged: %w", err)
	}
	s.damageKept.Store(changes)
	return nil
}

// recallDamage takes over what the catalog knows, of files that the store has. The
// present pass of the scrub may have been there before it was damaged: the next one
// decides.
func (s *Store) recallDamage(l damageList) {
	for _, d := range l.Places {
		if g := s.holdNamed(d.File); g != nil {
			s.releaseSegment(g)
		} else if d.File != baseFile && d.File != catalogFile {
			continue
		}
		s.damage.note(&CorruptError{File: d.File, Offset: d.Offset, What: d.What, Wanted: d.Wanted, Found: d.Found}, s.scrub.pass.Load())
	}
	if n := s.damage.count(); n > 0 {
		s.cfg.Log.Warn("volume is known to be damaged", "volume", s.volume, "places", n)
		wake(s.repairs.wanted)
	}
	_, changes := s.damageList()
	s.damageKept.Store(changes)
}
