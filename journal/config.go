package journal

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"path"
	"strings"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// DefaultSegmentBytes is the segment size unless configured: small enough to
// recover in a moment, large enough that rotation costs nothing.
const DefaultSegmentBytes = 64 << 20

// DefaultIndexMemory is Config.IndexMemory unless configured: the index of about
// 8 GiB in 4 KiB writes at random places is in memory as a whole.
const (
	DefaultIndexMemory = 128 << 20
	MinIndexMemory     = 1 << 20
)

// Config says where a store lives and how long its history is.
type Config struct {
	FS  vfs.FS
	Dir string // the store's directory on FS
	// JournalDir is the directory on FS of segments and index runs, on another
	// file system than Dir perhaps; empty: journal in Dir. A store keeps the one
	// that it was made with, which Open must be given.
	JournalDir string
	// Clock gives wall-clock times for timelines and for Window; nil is the
	// machine's clock.
	Clock clock.Clock
	// Random is the source of timeline ids; nil is crypto/rand.
	Random io.Reader
	// SegmentBytes is the size of new segments, a multiple of 4096 between
	// MinSegmentBytes and MaxSegmentBytes; 0 is DefaultSegmentBytes.
	SegmentBytes int64
	// JournalBytes is the budget: destage begins when the journal is larger,
	// whatever Window asks. 0 is unlimited. It is not a hard limit: readers keep
	// what they need, and what is kept for pins and views alone is beside it.
	JournalBytes int64
	// Window is how long records are kept before they are destaged; 0 keeps
	// them until JournalBytes forces them out.
	Window time.Duration
	// History says which checkpoints are kept at which age; one tier, or none,
	// thins nothing. Window is its last tier's age, or shorter.
	History History
	// IndexMemory bounds, in bytes, what the index of the live volume, cached
	// blocks of index runs, and what is kept to read parts of records take, as long as the runs keep up; at least
	// MinIndexMemory, 0 is DefaultIndexMemory. What does not fit is read from
	// disk when it is needed.
	IndexMemory int64
	// ScrubEvery is how often Run reads everything to find damage; at least
	// MinScrubEvery, 0 is DefaultScrubEvery.
	ScrubEvery time.Duration
	// Origin makes the store an overlay: what it has nothing of is read from this
	// view, which must stay open for as long as the store is. It has to be of the
	// volume and position that the overlay was made over.
	Origin *View
	// Allowance bounds what the segments' files take; nil: the file system does.
	Allowance Allowance
	// Log receives what an operator should know; nil discards it.
	Log *slog.Logger

	// CacheBytes is how much of its files the kernel is likely to keep in memory. Long
	// runs of a volume that is larger are destaged past the page cache, and long
	// appends to a journal whose budget is larger leave it. 0: neither is.
	CacheBytes int64

	youngExtents int   // see liveIndex; set by Validate, unless by a test
	runStep      uint8 // see defaultRunStep; set by Validate, unless by a test
	// Of destage, see baseWriter. directBytes is 0 unless a test sets it; directDepth is
	// set by Validate, unless by a test.
	directBytes int64
	directDepth int
	// Of thinning; set by Validate, unless by a test.
	minThinSegments       int
	thinGrace, thinSettle time.Duration
}

// Validate checks the configuration and fills in the defaults.
func (c *Config) Validate() error {
	if c.FS == nil || c.Dir == "" {
		return fmt.Errorf("validate journal configuration: FS and Dir are required")
	}
	if c.JournalDir != "" && strings.HasPrefix(path.Clean(c.JournalDir)+"/", path.Clean(c.Dir)+"/") {
		return fmt.Errorf("validate journal configuration: JournalDir %s is in Dir, %s", c.JournalDir, c.Dir)
	}
	if c.Clock == nil {
		c.Clock = clock.Wall{}
	}
	if c.Random == nil {
		c.Random = rand.Reader
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.SegmentBytes == 0 {
		c.SegmentBytes = DefaultSegmentBytes
	}
	if c.SegmentBytes < MinSegmentBytes || c.SegmentBytes > MaxSegmentBytes || c.SegmentBytes%blockBytes != 0 {
		return fmt.Errorf("validate journal configuration: SegmentBytes is %d, want a multiple of %d from %d to %d", c.SegmentBytes, blockBytes, MinSegmentBytes, MaxSegmentBytes)
	}
	if c.ScrubEvery == 0 {
		c.ScrubEvery = DefaultScrubEvery
	}
	if c.ScrubEvery < MinScrubEvery {
		return fmt.Errorf("validate journal configuration: ScrubEvery is %s, want at least %s", c.ScrubEvery, MinScrubEvery)
	}
	if c.JournalBytes < 0 || c.Window < 0 {
		return fmt.Errorf("validate journal configuration: JournalBytes and Window must not be negative")
	}
	if err := c.validateOrigin(); err != nil {
		return err
	}
	if err := c.History.Validate(); err != nil {
		return fmt.Errorf("validate journal configuration: %w", err)
	}
	if c.directDepth == 0 {
		c.directDepth = defaultDirectDepth
	}
	if c.minThinSegments == 0 {
		c.minThinSegments, c.thinGrace, c.thinSettle = minThinSegments, thinGrace, thinSettle
	}
	return c.validateIndex()
}

// validateIndex divides the index's memory: an eighth is for blocks of runs, two
// sixteenths for finding and checking records, the rest for what was written
// lately, twice over: the older half is put aside until it is on disk.
func (c *Config) validateIndex() error {
	if c.IndexMemory == 0 {
		c.IndexMemory = DefaultIndexMemory
	}
	if c.IndexMemory < MinIndexMemory {
		return fmt.Errorf("validate journal configuration: IndexMemory is %d, want at least %d", c.IndexMemory, MinIndexMemory)
	}
	if c.youngExtents == 0 {
		c.youngExtents = int(c.IndexMemory * 3 / 8 / indexBytesPerExtent)
	}
	if c.runStep == 0 {
		c.runStep = defaultRunStep
	}
	return nil
}

// file is where a name below the store's directory is found.
func (c *Config) file(name string) string {
	below, ofJournal := strings.CutPrefix(name, journalDir)
	if ofJournal && c.JournalDir != "" && (below == "" || below[0] == '/') {
		return path.Join(c.JournalDir, below)
	}
	return path.Join(c.Dir, name)
}

// Spec is a volume's identity and size.
type Spec struct {
	Volume    VolumeID
	SizeBytes int64 // a multiple of SectorBytes
}

func (s Spec) validate() error {
	if s.Volume.IsZero() {
		return fmt.Errorf("validate volume: no volume id")
	}
	if s.SizeBytes <= 0 || s.SizeBytes%SectorBytes != 0 || s.SizeBytes > maxVolumeBytes {
		return fmt.Errorf("validate volume: size %d: %w", s.SizeBytes, ErrRange)
	}
	return nil
}
