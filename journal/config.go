package journal

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"path"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// DefaultSegmentBytes is the segment size unless configured: small enough to
// recover in a moment, large enough that rotation costs nothing.
const DefaultSegmentBytes = 64 << 20

// Config says where a store lives and how long its history is.
type Config struct {
	FS  vfs.FS
	Dir string // the store's directory on FS
	// Clock gives wall-clock times for timelines and for Window; nil is the
	// machine's clock.
	Clock clock.Clock
	// Random is the source of timeline ids; nil is crypto/rand.
	Random io.Reader
	// SegmentBytes is the size of new segments, a multiple of 4096 between
	// MinSegmentBytes and MaxSegmentBytes; 0 is DefaultSegmentBytes.
	SegmentBytes int64
	// JournalBytes is the budget: destage begins when the journal is larger,
	// whatever Window asks. 0 is unlimited. It is not a hard limit: views,
	// pins and readers keep what they need.
	JournalBytes int64
	// Window is how long records are kept before they are destaged; 0 keeps
	// them until JournalBytes forces them out.
	Window time.Duration
	// Log receives what an operator should know; nil discards it.
	Log *slog.Logger
}

// Validate checks the configuration and fills in the defaults.
func (c *Config) Validate() error {
	if c.FS == nil || c.Dir == "" {
		return fmt.Errorf("validate journal configuration: FS and Dir are required")
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
	if c.JournalBytes < 0 || c.Window < 0 {
		return fmt.Errorf("validate journal configuration: JournalBytes and Window must not be negative")
	}
	return nil
}

func (c *Config) file(name string) string { return path.Join(c.Dir, name) }

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
