package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// nextBaseRepair returns a question about the first run of damaged sectors that was
// not asked about.
func (s *Store) nextBaseRepair(ctx context.Context, places []damagePlace) (q RepairQuestion, ok bool, err error) {
	for _, at := range places {
		if err := ctx.Err(); err != nil {
			return q, false, err
		}
		from := at.off &^ (SectorBytes - 1)
		end := min(from+maxSummedBytes, s.summed.Load())
		damaged, err := s.damagedIn(from, end)
		if err != nil {
			return q, false, err
		}
		if len(damaged) == 0 {
			s.damage.healed(baseFile, at.off, max(end-at.off, 1))
			continue
		}
		for _, d := range damaged {
			unfinished, err := s.isUnfinished(d)
			if err != nil {
				return q, false, err
			}
			if key := (damagePlace{baseFile, d.off}); !unfinished && !s.repairs.asked[key] {
				s.repairs.asked[key] = true
				s.mu.RLock()
				base := s.state.Base
				s.mu.RUnlock()
				q = RepairQuestion{Base: base, Offset: d.off, Length: d.length}
				s.repairs.about[q] = damageRange{baseFile, at.off, max(d.off+d.length, at.off+1)}
				return q, true, nil
			}
		}
	}
	return q, false, nil
}

// damagedIn returns the runs of sectors in a range of the base that do not fit their
// checksums or cannot be read.
func (s *Store) damagedIn(from, end int64) (runs []damagedSectors, err error) {
	if from >= end {
		return nil, nil
	}
	s.baseMu.Lock()
	defer s.baseMu.Unlock()
	c, err := s.readBaseCopy(from, end-from)
	if err != nil {
		return nil, err
	}
	for i := range c.sectors() {
		off := from + int64(i)*SectorBytes
		if c.whole(i) {
			continue
		}
		if n := len(runs); n > 0 && runs[n-1].off+runs[n-1].length == off {
			runs[n-1].length += SectorBytes
			continue
		}
		runs = append(runs, damagedSectors{off, SectorBytes, c.entry(i), c.sum(i, c.content(i))})
	}
	return runs, nil
}

// baseCopy is what base.img and base.crc hold of a range.
type baseCopy struct {
	s          *Store
	off        int64
	data       []byte
	entries    []byte
	unreadable map[int]bool // sectors; their data is zeroes
	scratch    sumScratch
}

// readBaseCopy reads a range of both. baseMu must be held for writing.
func (s *Store) readBaseCopy(off, length int64) (*baseCopy, error) {
	c := &baseCopy{s: s, off: off, data: make([]byte, length), unreadable: map[int]bool{}}
	if s.readBaseUnchecked(c.data, off) != nil {
		for i := range c.sectors() {
			if s.readBaseUnchecked(c.content(i), off+int64(i)*SectorBytes) != nil {
				clear(c.content(i))
				c.unreadable[i] = true
			}
		}
	}
	entries, err := s.sums.read(&c.scratch, off, length)
	if err != nil {
		return nil, err
	}
	c.entries = append(c.entries, entries...)
	return c, nil
}

func (c *baseCopy) sectors() int         { return len(c.data) / SectorBytes }
func (c *baseCopy) content(i int) []byte { return c.data[i*SectorBytes:][:SectorBytes] }
func (c *baseCopy) entry(i int) uint32   { return binary.LittleEndian.Uint32(c.entries[i*sumBytes:]) }
func (c *baseCopy) whole(i int) bool {
	return !c.unreadable[i] && c.sum(i, c.content(i)) == c.entry(i)
}

// sum is what the entry of the i-th sector would be with a content.
func (c *baseCopy) sum(i int, content []byte) uint32 {
	return c.s.sums.of(&c.scratch, c.off/SectorBytes+int64(i), content)
}

// takeSectors writes the sectors of an answer that are damaged here and proven, and
// makes entries anew that two copies of a sector disprove.
func (s *Store) takeSectors(q RepairQuestion, a RepairAnswer) error {
	if int64(len(a.Data)) != q.Length {
		return wireCorrupt("answer", fmt.Sprintf("%d bytes", q.Length), fmt.Sprint(len(a.Data)))
	}
	q.Length = min(q.Length, s.summed.Load()-q.Offset)
	if q.Length <= 0 {
		return nil
	}
	changed, err := s.changedUpTo(q, a.At)
	if err != nil {
		return err
	}
	wrong, err := s.putSectors(q, a, changed)
	if err != nil {
		return err
	}
	if err := s.syncBase(); err != nil {
		return err
	}
	s.base.DropCache()
	s.sums.file.DropCache()
	left, err := s.damagedIn(q.Offset, q.Offset+q.Length)
	if err != nil {
		return err
	}
	whole := q.Offset
	for _, d := range left {
		s.damage.healed(baseFile, whole, d.off-whole)
		whole = d.off + d.length
		_ = s.noteDamage(d.err())
		s.repairs.asked[damagePlace{baseFile, d.off}] = true
	}
	s.damage.healed(baseFile, whole, q.Offset+q.Length-whole)
	if len(left) == 0 {
		s.noteRepaired(baseFile, q.Offset, fmt.Sprintf("%d sectors", q.Length/SectorBytes))
		return nil
	}
	return wrong
}

// putSectors writes what is proven; not durable. wrong says that an answer did not
// fit. Two copies that agree prove an entry only if they are of one position: once the base
// has moved on, a sector that is as it was at the question's may have lost what was
// written to it since.
func (s *Store) putSectors(q RepairQuestion, a RepairAnswer, changed []bool) (wrong, err error) {
	s.baseMu.Lock()
	defer s.baseMu.Unlock()
	s.mu.RLock()
	overtaken := a.At == q.Base && s.state.Base != q.Base
	s.mu.RUnlock()
	c, err := s.readBaseCopy(q.Offset, q.Length)
	if err != nil {
		return nil, err
	}
	for i := range c.sectors() {
		off, good := q.Offset+int64(i)*SectorBytes, a.Data[i*SectorBytes:][:SectorBytes]
		if changed[i] || c.whole(i) {
			continue
		}
		switch sum := c.sum(i, good); {
		case sum == c.entry(i):
			if _, err := s.base.WriteAt(good, off); err != nil {
				return nil, fmt.Errorf("write sector at %d of %s: %w", off, baseFile, mapFull(err))
			}
		case !overtaken && !c.unreadable[i] && string(good) == string(c.content(i)):
			entry := binary.LittleEndian.AppendUint32(nil, sum)
			if _, err := s.sums.file.WriteAt(entry, sumOffset(off)); err != nil {
				return nil, fmt.Errorf("write checksum of sector at %d of %s: %w", off, baseFile, mapFull(err))
			}
		case wrong == nil:
			wrong = wireCorrupt("answer", fmt.Sprintf("%s in the sector at %d", sumText(c.entry(i)), off), sumText(sum))
		}
	}
	return wrong, nil
}

// changedUpTo tells of each sector of a question whether it is not proven that it is
// the same at a position as in the base: a record changed it on the way.
func (s *Store) changedUpTo(q RepairQuestion, at Position) ([]bool, error) {
	changed := make([]bool, q.Length/SectorBytes)
	if at == q.Base {
		return changed, nil
	}
	v, err := s.View(at)
	if errors.Is(err, ErrHorizon) || errors.Is(err, ErrUnknownPosition) || errors.Is(err, ErrThinned) {
		return nil, wireCorrupt("answer", "sectors of a position behind "+q.Base.String(), at.String())
	}
	if err != nil {
		return nil, err
	}
	first := uint64(q.Offset) / SectorBytes
	err = v.with(func(st *stack) error {
		return st.lookup(first, first+uint64(len(changed)), func(e extent) bool {
			for sector := e.start(); sector < e.end(); sector++ {
				changed[sector-first] = true
			}
			return true
		})
	})
	return changed, errors.Join(err, v.Close())
}
