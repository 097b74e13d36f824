package journal

import (
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// sealPending gives complete segments their footer, oldest first, and enters
// them into the catalog. Maintain calls it, and an append that finds too many
// unsealed segments: one at a time, because a segment that one of them has
// sealed may be destaged and its file be reused before the other is done.
func (s *Store) sealPending() error {
	s.sealMu.Lock()
	defer s.sealMu.Unlock()
	for {
		s.mu.RLock()
		var g *segment
		if len(s.toSeal) > 0 {
			g = s.toSeal[0]
		}
		err := s.usable()
		s.mu.RUnlock()
		if g == nil || err != nil {
			return err
		}
		if err := s.sealOne(g); err != nil {
			return err
		}
	}
}

func (s *Store) dropPendingLocked(g *segment) {
	if i := slices.Index(s.toSeal, g); i >= 0 {
		s.toSeal = slices.Delete(s.toSeal, i, i+1)
	}
}

// sealOne makes a complete segment's footer durable, then the catalog's entry
// for it. A crash in between leaves a segment that recovery scans and seals
// again. sealMu must be held.
func (s *Store) sealOne(g *segment) error {
	s.mu.RLock()
	snap := g.snapshot()
	entry := g.entry(snap)
	s.mu.RUnlock()
	f, err := g.makeFooter(snap)
	if err != nil {
		return err
	}
	if err := g.writeFooter(f); errors.Is(err, vfs.ErrNoSpace) {
		return mapFull(err) // the same bytes are written again
	} else if err != nil {
		return s.poison(err)
	}
	if err := s.syncSegment(g); err != nil {
		return err
	}
	if err := s.commit(func(tx kv.Tx) error { return s.cat.saveSegment(tx, g.id, entry) }); err != nil {
		return fmt.Errorf("enter segment %s into the catalog: %w", g.name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keepFrames(snap)
	g.sealed, g.changes = true, nil
	s.dropPendingLocked(g)
	s.letGo() // it can be destaged now
	wake(s.wakeRuns)
	wake(s.wakeThin)
	return nil
}
