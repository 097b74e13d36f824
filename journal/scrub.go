package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// The scrub reads everything once in a while, so that damage is found while a
// replica or another copy may still be there to mend it: the catalog's values, the
// sealed segments, the index runs, the base. A pass is spread over its period, in
// steps, each of which gives way to requests as destage does. Where it is, is kept
// in the catalog from time to time.
//
// A base that an older program made is given its checksums first, and at once.

// DefaultScrubEvery is Config.ScrubEvery unless configured.
const (
	DefaultScrubEvery = 7 * 24 * time.Hour
	MinScrubEvery     = time.Minute
)

const (
	// scrubSaveEvery is how often the position is kept while a pass goes on.
	scrubSaveEvery = 10 * time.Minute
	// scrubCatchUp bounds the speed at which a pass makes up for a time in which
	// the store was closed, in terms of the usual one.
	scrubCatchUp = 4
	// minScrubBytes is what one turn reads at least, if anything is due.
	minScrubBytes = 4 << 20
)

// scrubState is where the scrub is; a value of the catalog.
type scrubState struct {
	Pass  uint64    // number of the present pass, from 1
	Began time.Time // when it began
	Done  bool      // it is over; the next one begins a period after its begin
	// Segment is the id behind the last segment that it has read. Thinning may have
	// put others in the place of those before it, whose records it has verified, or
	// behind it, which are read.
	Segment segmentID
	// Base is how many bytes of the base it has read; above 0 only once it was
	// through with the segments.
	Base  int64 `json:",omitempty"`
	Bytes int64 `json:",omitempty"` // that it has read so far
	// LastFull is when the last whole pass ended.
	LastFull time.Time `json:",omitzero"`
}

// ScrubStats say how far the scrub is.
type ScrubStats struct {
	LastFull     time.Time // end of the last whole pass; zero: there was none
	Progress     float64   // of the present pass, 0 to 1
	Bytes        uint64    // read since Open
	UnsummedBase int64     // bytes of the base, holes included, that have no checksums yet
}

// scrubber is the scrub's part of a Store. mu is held over a turn.
type scrubber struct {
	mu    sync.Mutex
	state scrubState // guarded by mu
	saved time.Time  // guarded by mu
	stats atomic.Pointer[ScrubStats]
	pass  atomic.Uint64 // equals state.Pass
	bytes atomic.Uint64 // read since Open
}

var errScrubTurn = errors.New("enough for one turn")

// scrubDue does what is due of the scrub now.
func (s *Store) scrubDue(ctx context.Context) error {
	s.scrub.mu.Lock()
	defer s.scrub.mu.Unlock()
	defer s.publishScrub()
	if err := errors.Join(s.keepDamage(), s.sumBase(ctx)); err != nil {
		return err
	}
	allowed := s.beginScrub()
	if allowed == 0 {
		return nil
	}
	turn := scrubTurn{s: s, left: allowed, pace: s.newPacer()}
	err := turn.run(ctx)
	switch now := s.cfg.Clock.Now(); {
	case err == nil:
		s.endScrub(now)
	case !errors.Is(err, errScrubTurn):
		return err
	case now.Sub(s.scrub.saved) < scrubSaveEvery:
		return nil
	}
	return s.saveScrub()
}

// beginScrub begins a pass if one is due, and returns the bytes that may be read
// now. scrub.mu must be held.
func (s *Store) beginScrub() int64 {
	now, st := s.cfg.Clock.Now(), &s.scrub.state
	if st.Pass == 0 || st.Done && now.Sub(st.Began) >= s.cfg.ScrubEvery || st.Began.After(now) {
		*st = scrubState{Pass: st.Pass + 1, Began: now.UTC(), LastFull: st.LastFull}
		s.scrub.pass.Store(st.Pass)
	}
	if st.Done {
		return 0
	}
	total := float64(s.scrubBytes())
	share := min(float64(now.Sub(st.Began))/float64(s.cfg.ScrubEvery), 1)
	most := max(int64(scrubCatchUp*total*float64(maintainEvery)/float64(s.cfg.ScrubEvery)), minScrubBytes)
	if share == 1 { // it may have read more than there is by now, and not be through
		return most
	}
	return min(max(int64(total*share)-st.Bytes, 0), most)
}

// endScrub ends a pass. What was damaged and not met in it is not there any more, but
// for what a read has met in a segment that is not sealed, which no pass reads.
func (s *Store) endScrub(now time.Time) {
	st := &s.scrub.state
	st.Done, st.LastFull = true, now.UTC()
	unread := map[string]bool{}
	s.mu.RLock()
	for _, g := range s.segments {
		if !g.sealed {
			unread[g.name] = true
		}
	}
	s.mu.RUnlock()
	s.damage.forget(func(at damagePlace, known *knownDamage) bool { return known.pass < st.Pass && !unread[at.file] })
	s.cfg.Log.Info("scrub ended", "volume", s.volume, "pass", st.Pass, "bytes", st.Bytes, "damaged", s.damage.count())
}

// scrubBytes is what a pass has to read: an estimate, because the base is sparse.
func (s *Store) scrubBytes() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.journalBytesLocked() + s.state.SizeBytes
}

func (s *Store) saveScrub() error {
	st := s.scrub.state
	s.scrub.saved = s.cfg.Clock.Now()
	if err := s.commit(func(tx kv.Tx) error { return s.cat.put(tx, bucketMeta, keyScrub, st) }); err != nil {
		return fmt.Errorf("keep position of the scrub: %w", err)
	}
	return nil
}

// scrubTurn is what one call does of a pass.
type scrubTurn struct {
	s    *Store
	left int64 // bytes that it may still read
	pace *pacer
	told func() // is called for all that was read; nil: nobody asks
}

// run goes on with the pass until it is over, or errScrubTurn.
func (t *scrubTurn) run(ctx context.Context) error {
	st := &t.s.scrub.state
	if st.Base == 0 {
		if err := t.segments(ctx); err != nil {
			return err
		}
		if err := t.runs(ctx); err != nil {
			return err
		}
	}
	return t.base(ctx)
}

// did counts what was read, and ends the turn when that was enough.
func (t *scrubTurn) did(ctx context.Context, bytes int64) error {
	t.read(bytes)
	if err := t.pace.did(ctx, bytes); err != nil {
		return err
	}
	if t.left <= 0 {
		return errScrubTurn
	}
	return nil
}

func (t *scrubTurn) read(bytes int64) {
	t.s.scrub.state.Bytes += bytes
	t.s.scrub.bytes.Add(uint64(bytes))
	t.left -= bytes
	if t.told != nil {
		t.told()
	}
}

// segments reads the catalog and the sealed segments.
func (t *scrubTurn) segments(ctx context.Context) error {
	s, st := t.s, &t.s.scrub.state
	if st.Segment == 0 {
		if _, err := s.cat.load(func(err error) bool { _ = s.noteDamage(err); return true }); err != nil {
			return err
		}
	}
	for {
		g := s.holdNextSealed(st.Segment)
		if g == nil {
			return nil
		}
		err := t.segment(ctx, g)
		s.forgetReplaced(g)
		s.releaseSegment(g)
		if err != nil {
			return err
		}
		st.Segment = g.id + 1
		if t.left <= 0 {
			return errScrubTurn
		}
	}
}

// holdNextSealed holds the first sealed segment from an id on; nil if there is none.
func (s *Store) holdNextSealed(from segmentID) *segment {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, id := range slices.Sorted(maps.Keys(s.segments)) {
		if g := s.segments[id]; id >= from && g.sealed {
			g.users.Add(1)
			return g
		}
	}
	return nil
}

// forgetReplaced forgets damage of a segment that was dropped, or replaced by a
// thinned one, while it was read.
func (s *Store) forgetReplaced(g *segment) {
	s.mu.RLock()
	replaced := s.segments[g.id] != g
	s.mu.RUnlock()
	if replaced {
		s.damage.healed(g.name, 0, g.bytes)
	}
}

// segment reads all of a sealed segment.
func (t *scrubTurn) segment(ctx context.Context, g *segment) error {
	s := t.s
	note := func(err error) error {
		return t.note(ctx, g.name, 0, err)
	}
	_, footerErr := g.readFooter()
	if err := errors.Join(note(g.checkHeader()), note(footerErr)); err != nil {
		return err
	}
	t.read(g.bytes - g.end)
	return note(walkFrames(g, g.end, func(f *frame) error {
		bytes := frameBytes(len(f.Payload))
		t.read(bytes)
		return t.pace.did(ctx, bytes)
	}, func(err error) error {
		_ = s.noteDamage(err)
		return nil
	}))
}

// note takes an error that says that something is damaged or cannot be read, and
// returns others.
func (t *scrubTurn) note(ctx context.Context, file string, off int64, err error) error {
	switch {
	case err == nil, ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrVersion), errors.Is(err, ErrForeign):
		_ = t.s.noteDamage(err)
		return nil
	}
	if usable := t.s.check(); usable != nil {
		return usable
	}
	_ = t.s.noteDamage(&CorruptError{File: file, Offset: off, What: "content", Wanted: "to be readable", Found: err.Error()})
	return nil
}

// check returns why the store cannot be used, or nil.
func (s *Store) check() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.usable()
}

// runs reads the index runs. A damaged one is dropped, and made again.
func (t *scrubTurn) runs(ctx context.Context) error {
	s := t.s
	dropped := false
	for _, key := range s.runs.keys() {
		err := t.readRun(ctx, key)
		switch {
		case err == nil, errors.Is(err, vfs.ErrNotExist): // nobody needs it any more
		case isRunDamage(err), isUseless(err):
			s.cfg.Log.Warn("index run is damaged and is made again", "volume", s.volume, "run", key.name(), "error", err)
			s.runs.remove(key)
			dropped = true
		default:
			return err
		}
	}
	if !dropped {
		return nil
	}
	wake(s.wakeRuns)
	return s.refreshLive()
}

// readRun reads all of a run, whatever is in memory of it.
func (t *scrubTurn) readRun(ctx context.Context, key runKey) error {
	r, err := openRun(&t.s.cfg, t.s.volume, key, t.s.runs.cache)
	if err != nil {
		return err
	}
	defer t.s.runs.close(r)
	for c := r.cursor(); ; {
		_, ok, err := c.next()
		if err != nil || !ok {
			return err
		}
		if err := t.pace.did(ctx, footerExtentBytes); err != nil {
			return err
		}
	}
}

// base compares the base with its checksums.
func (t *scrubTurn) base(ctx context.Context) error {
	s, st := t.s, &t.s.scrub.state
	return s.checkBase(ctx, st.Base, s.SizeBytes(), baseCheck{
		found: func(d damagedSectors) error {
			unfinished, err := s.isUnfinished(d)
			if err == nil && !unfinished {
				_ = s.noteDamage(d.err())
			}
			return t.note(ctx, baseFile, 0, err)
		},
		unreadable: func(off int64, err error) error { return t.note(ctx, baseFile, off, err) },
		each: func(next, bytes int64) error {
			st.Bytes += next - st.Base - bytes // holes
			st.Base = next
			return t.did(ctx, bytes)
		},
	})
}

// isUnfinished reports whether damaged sectors are in a batch of destage that did
// not come to its end.
func (s *Store) isUnfinished(d damagedSectors) (bool, error) {
	s.mu.RLock()
	parts, err := s.unfinishedLocked()
	for _, part := range parts {
		part.users.Add(1)
	}
	s.mu.RUnlock()
	defer s.releaseParts(parts)
	if err != nil {
		return false, err
	}
	return d.isUnfinished(parts)
}

// publishScrub makes the figures of the scrub those that ScrubStats returns.
// scrub.mu must be held.
func (s *Store) publishScrub() {
	st := &s.scrub.state
	out := ScrubStats{LastFull: st.LastFull, Progress: 1}
	if total := s.scrubBytes(); !st.Done && total > 0 {
		out.Progress = min(float64(st.Bytes)/float64(total), 1)
	}
	s.scrub.stats.Store(&out)
}

// ScrubStats returns how far the scrub is, as of its last turn.
func (s *Store) ScrubStats() ScrubStats {
	out := ScrubStats{}
	if last := s.scrub.stats.Load(); last != nil {
		out = *last
	}
	out.Bytes, out.UnsummedBase = s.scrub.bytes.Load(), s.SizeBytes()-s.summed.Load()
	return out
}
