package journal

// AllocatedRange is a run of the live volume with one allocation state.
type AllocatedRange struct {
	Offset, Length int64 // bytes
	Zero           bool  // reads as zeroes and takes no space
}

// Allocation describes [off, off+length) as at most limit consecutive ranges;
// the answer may end early but covers at least one.
func (s *Store) Allocation(off, length int64, limit int) ([]AllocatedRange, error) {
	if err := s.checkRange(off, length); err != nil {
		return nil, err
	}
	for {
		out, err := s.tryAllocation(off, length, limit)
		if !s.healed(err) {
			return out, err
		}
		if err := s.refreshLive(); err != nil {
			return nil, err
		}
	}
}

// allocationExtents bounds what is copied of the index in memory to describe
// a range without holding up appends.
const allocationExtents = 4096

func (s *Store) tryAllocation(off, length int64, limit int) ([]AllocatedRange, error) {
	s.mu.RLock()
	if err := s.usable(); err != nil {
		s.mu.RUnlock()
		return nil, err
	}
	if s.index.stack == nil {
		defer s.mu.RUnlock()
		return collectAllocation(s.index, s.underlay(), off, length, limit)
	}
	st := s.index.stack
	st.users.Add(1)
	memory, upTo := s.index.collect(uint64(off)/SectorBytes, uint64(off+length)/SectorBytes, allocationExtents)
	s.mu.RUnlock()
	defer s.releaseStack(st)
	all := &stack{layers: append([]layer{memory}, st.layers...), oldest: st.oldest}
	return collectAllocation(all, s.underlay(), off, int64(upTo)*SectorBytes-off, limit)
}

// collectAllocation merges neighbours of one state, up to limit ranges.
func collectAllocation(ix lookuper, base image, off, length int64, limit int) ([]AllocatedRange, error) {
	var out []AllocatedRange
	err := allocation(ix, base, off, length, func(r AllocatedRange) bool {
		if n := len(out); n > 0 && out[n-1].Zero == r.Zero {
			out[n-1].Length += r.Length
			return true
		}
		if len(out) == limit {
			return false
		}
		out = append(out, r)
		return true
	})
	return out, err
}

// lookuper is an index: the live one's part in memory, or a stack.
type lookuper interface {
	// lookup calls fn for the mapped parts of [start, end) in ascending order
	// until fn returns false.
	lookup(start, end uint64, fn func(extent) bool) error
}

// allocation walks [off, off+length) of a view in ascending order: what the
// index maps, and the data and holes of the base in between. Ranges given to
// fn are not merged; fn returns false to stop.
func allocation(ix lookuper, base image, off, length int64, fn func(AllocatedRange) bool) error {
	end := off + length
	at, going := off, true
	var failed error
	emit := func(to int64, zero bool) {
		if going && to > at {
			going = fn(AllocatedRange{at, to - at, zero})
			at = to
		}
	}
	fromBase := func(to int64) {
		for going && failed == nil && at < to {
			start, n, err := base.NextData(at)
			if err != nil {
				failed = err
				return
			}
			if n == 0 || start >= to {
				emit(to, true)
				return
			}
			start = start &^ (SectorBytes - 1)
			emit(max(at, start), true)
			stop := (start + n + 2*SectorBytes - 1) &^ (SectorBytes - 1)
			emit(min(to, stop), false)
		}
	}
	err := ix.lookup(uint64(off)/SectorBytes, uint64(end)/SectorBytes, func(e extent) bool {
		fromBase(int64(e.start()) * SectorBytes)
		if failed == nil {
			emit(int64(e.end())*SectorBytes, e.loc.isZeroes())
		}
		return going && failed == nil
	})
	if err != nil {
		return err
	}
	fromBase(end)
	return failed
}
