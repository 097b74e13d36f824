package journal

import (
	"fmt"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// sealOne makes a complete segment's footer durable, then the catalog's entry
// for it. A crash in between leaves a segment that recovery scans and seals
// again. Both Maintain and an append that found too many unsealed segments may
// come here for the same segment: the work is then done twice with the same
// result, and entered once.
func (s *Store) sealOne(g *segment) error {
	s.mu.RLock()
	snap, closedAt := g.snapshot(), g.closedAt
	s.mu.RUnlock()
	if snap.sealed {
		return nil
	}
	f, err := g.makeFooter(snap)
	if err != nil {
		return err
	}
	if err := g.writeFooter(f); err != nil {
		return s.poison(err)
	}
	entry := segmentEntry{Timeline: g.timeline, First: g.first, Last: snap.last, EndBytes: snap.end, Bytes: g.bytes, ClosedAt: closedAt.UTC()}
	err = s.cat.db.Update(func(tx kv.Tx) error { return s.cat.saveSegment(tx, g.id, entry) })
	if err != nil {
		return fmt.Errorf("enter segment %s into the catalog: %w", g.name, mapFull(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g.sealed, g.changes = true, nil
	s.dropPendingLocked(g)
	return nil
}
