package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// Report is what Verify found in a store. Its JSON field names are stable.
type Report struct {
	Dir string `json:"dir"`
	// JournalDir is the directory of a journal that has one of its own, whose
	// files are named below journal/ all the same.
	JournalDir string           `json:"journalDir,omitempty"`
	Volume     string           `json:"volume"`
	Version    int              `json:"version"`
	SizeBytes  int64            `json:"sizeBytes"`
	BaseBytes  int64            `json:"baseBytes"`
	Active     string           `json:"active"`  // timeline
	Base       string           `json:"base"`    // position
	Horizon    string           `json:"horizon"` // position
	Tip        string           `json:"tip"`     // position that Open would recover
	Clean      bool             `json:"clean"`   // closed cleanly
	Timelines  []TimelineReport `json:"timelines"`
	Pins       []PinReport      `json:"pins"`
	Segments   []SegmentReport  `json:"segments"`
	IndexRuns  []RunReport      `json:"indexRuns"`
	// SummedBytes is how much of the base, from its start, has checksums.
	SummedBytes int64    `json:"summedBytes"`
	Damage      []Damage `json:"damage"`
}

// OK reports whether nothing is damaged that is not made again.
func (r *Report) OK() bool { return len(r.Damage) == 0 }

// TimelineReport is a timeline as the catalog knows it.
type TimelineReport struct {
	ID      string    `json:"id"`
	Parent  string    `json:"parent"` // position; empty for the root
	Last    uint64    `json:"last"`   // seq of the newest record
	Created time.Time `json:"created"`
	Reason  string    `json:"reason"`
}

// PinReport is a pin.
type PinReport struct {
	Name     string `json:"name"`
	Position string `json:"position"`
}

// SegmentReport is a file in the journal's directory.
type SegmentReport struct {
	File string `json:"file"`
	// State is "sealed" (in the catalog), "unsealed" (the next Open continues
	// with it) or "free" (waits for reuse).
	State       string `json:"state"`
	Timeline    string `json:"timeline,omitempty"`
	First       uint64 `json:"first"`
	Last        uint64 `json:"last"`
	Bytes       int64  `json:"bytes"`    // of the file that the segment takes
	EndBytes    int64  `json:"endBytes"` // offset behind the last whole frame
	Records     int    `json:"records"`  // whose checksums are right
	Checkpoints int    `json:"checkpoints"`
	Damaged     bool   `json:"damaged"`
	// Thinned is the interval of which a thinned segment has one checkpoint.
	Thinned string `json:"thinned,omitempty"`
}

// Damage is one place where other bytes were found than had been written.
type Damage struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"`
	What   string `json:"what"`
	Wanted string `json:"wanted"`
	Found  string `json:"found"`
	Kind   string `json:"kind"` // "corrupt", "foreign" or "version"
}

// Verify reads every file of the store in cfg.Dir and checks every checksum, the
// footers against the records they describe, and the catalog against the
// files. It changes nothing and reports all damage that it finds; a torn end
// that the next Open would cut off is none. Of cfg only FS, Dir and JournalDir
// count. Errors: ErrNotStore, ErrNoJournal, ErrInUse, an I/O error, or that of
// ctx; damage is not an error.
func Verify(ctx context.Context, cfg Config) (Report, error) {
	in, err := inspect(cfg)
	if err != nil {
		return Report{}, fmt.Errorf("verify store %s: %w", cfg.Dir, err)
	}
	err = errors.Join(in.verifySegments(ctx), in.verifyRuns(ctx), in.verifyBase(ctx))
	if err = errors.Join(err, in.close()); err != nil {
		return Report{}, fmt.Errorf("verify store %s: %w", cfg.Dir, err)
	}
	return in.report, nil
}

// inspector is a store that is looked at and not opened: its Store has no
// index and writes nothing.
type inspector struct {
	s      *Store
	files  []io.Closer
	found  []*candidate // segment files that the catalog does not name
	report Report
	// overlay is set for the store of a writable fork, whose base is elsewhere.
	overlay bool
}

// inspectCacheBytes is for finding and checking records, each.
const inspectCacheBytes = 1 << 20

// inspect locks the store and reads all but the records.
func inspect(cfg Config) (*inspector, error) {
	cfg = Config{FS: cfg.FS, Dir: cfg.Dir, JournalDir: cfg.JournalDir}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	in := &inspector{
		s: &Store{cfg: cfg, runs: newRunSet(&cfg, VolumeID{}, 0), frames: newAgedCache[frameList](inspectCacheBytes), parts: newAgedCache[*recordParts](inspectCacheBytes), segments: map[segmentID]*segment{}, tree: newTree(map[TimelineID]Timeline{})},
		report: Report{Dir: cfg.Dir, JournalDir: cfg.JournalDir, Version: StoreFormatVersion,
			Timelines: []TimelineReport{}, Pins: []PinReport{}, Segments: []SegmentReport{}, IndexRuns: []RunReport{}, Damage: []Damage{}},
	}
	id, err := readIdentity(&cfg)
	if errors.Is(err, ErrNotStore) {
		return nil, err
	}
	lock, lockErr := lockStore(&cfg)
	if lockErr != nil {
		return nil, lockErr
	}
	in.files = append(in.files, lock)
	if err = in.damage(err); err == nil && in.report.OK() {
		in.overlay = id.Format == overlayFormat
		in.s.volume, in.report.Volume, in.report.Version = id.Volume, id.Volume.String(), id.Version
		in.s.runs = newRunSet(&in.s.cfg, id.Volume, readOnlyCacheBytes)
		err = in.lockJournal(id)
	}
	if err == nil && in.report.OK() {
		err = in.readCatalog()
	}
	if err != nil {
		return nil, errors.Join(err, in.close())
	}
	return in, nil
}

// lockJournal looks at the directory of a journal that has one of its own.
func (in *inspector) lockJournal(id identity) error {
	lock, err := lockJournal(&in.s.cfg, id)
	if lock != nil {
		in.files = append(in.files, lock)
	}
	return in.damage(err)
}

// damage adds an error to the report if it says that something is damaged,
// and returns it if not.
func (in *inspector) damage(err error) error {
	if err == nil {
		return nil
	}
	d := DescribeDamage(err)
	if d.Kind == "" {
		return err
	}
	if !slices.Contains(in.report.Damage, d) {
		in.report.Damage = append(in.report.Damage, d)
	}
	return nil
}

// DescribeDamage describes an error that says what is damaged; Kind is empty if it
// does not.
func DescribeDamage(err error) Damage {
	d := Damage{What: err.Error()}
	var c *CorruptError
	if errors.As(err, &c) {
		d = Damage{File: c.File, Offset: c.Offset, What: c.What, Wanted: c.Wanted, Found: c.Found}
	}
	switch {
	case errors.Is(err, ErrVersion):
		d.Kind = "version"
	case errors.Is(err, ErrForeign):
		d.Kind = "foreign"
	case errors.Is(err, ErrCorrupt):
		d.Kind = "corrupt"
	}
	return d
}

func (in *inspector) close() error {
	var errs []error
	for _, f := range slices.Backward(in.files) { // the lock last
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// readCatalog reads the catalog and looks at the base and the segments' files.
func (in *inspector) readCatalog() error {
	cat, err := openCatalog(&in.s.cfg)
	if err != nil {
		return in.damage(err)
	}
	in.files = append(in.files, cat.db)
	content, err := cat.load(func(err error) bool { return in.damage(err) == nil })
	if err != nil {
		return err
	}
	s := in.s
	s.cat, s.state, s.pins, s.tree = cat, content.state, content.pins, newTree(content.timelines)
	if s.state.Active == 0 || content.checkTimelines() != nil {
		return nil // nothing can be said of the files without it
	}
	s.state.assumeBaseBytes()
	s.tree.last[s.state.Base.Timeline] = max(s.state.Base.Seq, s.tree.last[s.state.Base.Timeline])
	if err := errors.Join(in.checkBase(), in.openSums()); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(content.segments)) {
		if err := in.openSealed(id, content.segments[id]); err != nil {
			return err
		}
	}
	if err := in.openOthers(); err != nil {
		return err
	}
	in.describe()
	return nil
}

func (in *inspector) checkBase() error {
	base, err := in.s.cfg.FS.OpenReadOnly(in.s.cfg.file(baseFile))
	wanted := fmt.Sprintf("at least %d bytes", in.s.state.SizeBytes)
	if errors.Is(err, vfs.ErrNotExist) {
		return in.damage(&CorruptError{File: baseFile, What: "base image", Wanted: wanted, Found: "no file"})
	}
	if err != nil {
		return err
	}
	in.files = append(in.files, base)
	in.s.base = base
	if in.report.BaseBytes, err = base.Size(); err != nil {
		return err
	}
	if in.report.BaseBytes < in.s.state.SizeBytes {
		return in.damage(&CorruptError{File: baseFile, What: "base image", Wanted: wanted, Found: fmt.Sprint(in.report.BaseBytes)})
	}
	return nil
}

// described reports whether the catalog could be read.
func (in *inspector) described() bool { return in.report.Tip != "" }

// describe fills in what the report says of the store as a whole.
func (in *inspector) describe() {
	s, r := in.s, &in.report
	r.SizeBytes, r.SummedBytes, r.Active = s.state.SizeBytes, s.state.Summed, s.state.Active.String()
	r.Base, r.Horizon, r.Tip = s.state.Base.String(), s.state.Horizon.String(), s.tipLocked().String()
	r.Clean = s.state.CleanTip != nil
	for _, line := range s.tree.sorted() {
		t := TimelineReport{ID: line.ID.String(), Last: uint64(s.tree.last[line.ID]), Created: line.Created, Reason: line.Reason}
		if line.Parent.Timeline != 0 {
			t.Parent = line.Parent.String()
		}
		r.Timelines = append(r.Timelines, t)
	}
	for name, at := range s.pins {
		r.Pins = append(r.Pins, PinReport{name, at.String()})
	}
	slices.SortFunc(r.Pins, func(a, b PinReport) int { return cmp.Compare(a.Name, b.Name) })
}
