package enginepod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// Config is what an engine needs.
type Config struct {
	Volume journal.VolumeID
	// Dir is where the backing volume is mounted.
	Dir string
	// JournalDir is where the journal's backing volume is mounted; empty: it has
	// none, and is with the store.
	JournalDir string
	// Devices provides block devices on this node; nil: the volume cannot be
	// attached.
	Devices Devices
	// Boot tells this run of the machine's kernel, where devices are, from every other
	// one; empty: it is not known.
	Boot string
	// Disk tells this attachment of the disk that the journal is on to the machine from
	// every other one of the same run of its kernel; empty: it is not known.
	Disk string
	// DialEngine connects to another engine, whose image is to be copied.
	DialEngine func(address string) (*grpc.ClientConn, error)
	// Site is this site's name, as replication names it.
	Site string
	// DialPeer connects to another site's gateway; nil: nothing is sent.
	DialPeer func(site, address string) (*grpc.ClientConn, error)
	// Peer returns the authenticated name of the site behind a replication
	// call; nil: nothing is taken.
	Peer func(ctx context.Context) (string, error)
	// Exports shows the live volume and views to tools; nil: they are not
	// shown.
	Exports Exporter
	// SegmentBytes is the size of journal segments; 0: the journal's default.
	SegmentBytes int64
	// IndexMemory bounds the memory of the volume's index, in bytes; 0: the
	// journal's default.
	IndexMemory int64
	// ScrubEvery is the time in which a store is read once to find damage; 0:
	// the journal's default.
	ScrubEvery time.Duration
	// CacheBytes is how much of the stores' files the kernel is likely to keep in
	// memory; 0: all of them, however large.
	CacheBytes int64
	Version    string      // of the program
	FS         vfs.FS      // nil: the operating system's
	Clock      clock.Clock // nil: the machine's
	Log        *slog.Logger
}

// Exporter shows devices over the network block device protocol; *nbd.Server
// is one.
type Exporter interface {
	Add(name string, dev engine.Device, description string) error
	Remove(ctx context.Context, name string) error
}

// Validate reports the first field that cannot be used, and fills in defaults.
func (c *Config) Validate() error {
	switch {
	case c.Volume.IsZero():
		return errors.New("engine configuration: Volume is missing")
	case !filepath.IsAbs(c.Dir):
		return fmt.Errorf("engine configuration: Dir %q is not an absolute path", c.Dir)
	case c.JournalDir != "" && (!filepath.IsAbs(c.JournalDir) || filepath.Clean(c.JournalDir) == filepath.Clean(c.Dir)):
		return fmt.Errorf("engine configuration: JournalDir %q has to be absolute, and another directory than Dir", c.JournalDir)
	}
	if c.FS == nil {
		c.FS = vfs.OS{}
	}
	if c.Clock == nil {
		c.Clock = clock.Wall{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}
