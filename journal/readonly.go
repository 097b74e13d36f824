package journal

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// readOnlyCacheBytes is for blocks of index runs.
const readOnlyCacheBytes = 16 << 20

// ReadOnly is a store that nobody has open, as it is on disk: its positions can
// be looked up and their images read. Nothing is written, not even what Open
// would recover. It holds the store's lock until Close. Its methods are for one
// goroutine; those of its images may be called concurrently.
type ReadOnly struct {
	in     *inspector
	broken map[segmentID]bool // sealed segments whose footer cannot be trusted
}

// OpenReadOnly opens a store for reading. Of cfg only FS, Dir and JournalDir count.
// Errors: ErrNotStore, ErrNoJournal, ErrInUse, ErrOverlay, an I/O error, or damage that leaves
// nothing to read: to identity, catalog or the base's size. Other damage is told by
// Damage.
func OpenReadOnly(cfg Config) (*ReadOnly, error) {
	cfg.FS = unchanged{cfg.FS}
	in, err := inspect(cfg)
	if err != nil {
		return nil, fmt.Errorf("read store %s: %w", cfg.Dir, err)
	}
	if in.overlay {
		return nil, errors.Join(fmt.Errorf("read store %s: %w", cfg.Dir, ErrOverlay), in.close())
	}
	r := &ReadOnly{in, map[segmentID]bool{}}
	if err := r.prepare(); err != nil {
		return nil, fmt.Errorf("read store %s: %w", cfg.Dir, errors.Join(err, in.close()))
	}
	return r, nil
}

// unchanged is a file system from which nothing is removed: index runs that
// turn out to be of no use stay for the next Open.
type unchanged struct{ vfs.FS }

func (unchanged) Remove(string) error { return vfs.ErrReadOnly }

// prepare does with what was found what Open does, in memory.
func (r *ReadOnly) prepare() error {
	s := r.in.s
	if s.base == nil || !r.in.described() {
		return r.in.report.firstDamage()
	}
	s.holds = map[*hold]struct{}{}
	s.durable = s.tipLocked()
	s.size.Store(s.state.SizeBytes)
	for _, id := range slices.Sorted(maps.Keys(s.segments)) {
		g := s.segments[id]
		g.users.Store(1)
		if !g.sealed || g.file == nil {
			continue
		}
		err := g.checkSealed()
		r.broken[id] = err != nil
		if err := r.in.damage(err); err != nil {
			return err
		}
	}
	return nil
}

// firstDamage is the first damage as an error; nil if there is none.
func (r *Report) firstDamage() error {
	if r.OK() {
		return nil
	}
	return r.Damage[0].asError()
}

// asError is the damage as the error that it was made of.
func (d Damage) asError() error {
	e := &CorruptError{File: d.File, Offset: d.Offset, What: d.What, Wanted: d.Wanted, Found: d.Found}
	switch d.Kind {
	case "foreign":
		e.Kind = ErrForeign
	case "version":
		e.Kind = ErrVersion
	}
	return e
}

// Volume returns the volume's id.
func (r *ReadOnly) Volume() VolumeID { return r.in.s.volume }

// SizeBytes returns the live volume's size.
func (r *ReadOnly) SizeBytes() int64 { return r.in.s.SizeBytes() }

// Tip returns the newest position, which is where Open would recover to.
func (r *ReadOnly) Tip() Position { return r.in.s.Tip() }

// Horizon returns the oldest position that can be read.
func (r *ReadOnly) Horizon() Position { return r.in.s.Horizon() }

// Clean reports whether the store was closed cleanly.
func (r *ReadOnly) Clean() bool { return r.in.s.state.CleanTip != nil }

// Checkpoints returns those on the active path inside the horizon that can be opened,
// oldest first: nothing is dropped from a store that is not used, so what its history
// would keep by now does not matter.
func (r *ReadOnly) Checkpoints() []Checkpoint {
	r.in.s.mu.RLock()
	defer r.in.s.mu.RUnlock()
	all := slices.Collect(r.in.s.allNewestFirstLocked())
	slices.Reverse(all)
	return all
}

// Pins returns the pins by name.
func (r *ReadOnly) Pins() map[string]Position { return r.in.s.Pins() }

// Damage returns what was found to be damaged without reading records: that is
// for Verify, and for Image as far as its path leads.
func (r *ReadOnly) Damage() []Damage { return slices.Clone(r.in.report.Damage) }

// Close lets go of the store. Images must have been closed.
func (r *ReadOnly) Close() error {
	if err := errors.Join(r.in.s.runs.closeAll(), r.in.close()); err != nil {
		return fmt.Errorf("close store %s: %w", r.in.report.Dir, err)
	}
	return nil
}
