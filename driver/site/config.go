package site

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// Config is what a site needs.
type Config struct {
	Name string // of the site
	Root string // directory of everything durable, but for JournalRoot
	// JournalRoot is where stores that are made from now on have their journals,
	// on another file system perhaps; empty: in Root. Those that have one there
	// open only with it.
	JournalRoot string
	// Holder attaches devices; nil: volumes cannot be attached.
	Holder *holder.Client
	// Transport is a wish for how requests of devices come; see
	// holder.AttachConfig. Empty is fuse.TransportDevice.
	Transport fuse.Transport
	// Peers leads to the other sites by name; nil or empty: nothing is
	// replicated.
	Peers map[string]Peer
	// Exports shows every open volume under its id, for tools: read-write
	// while it is not attached; nil: volumes are not shown.
	Exports Exporter
	// SegmentBytes is the size of journal segments; 0: the journal's default.
	SegmentBytes int64
	// IndexMemory bounds the memory of each volume's index, in bytes; 0: the
	// journal's default.
	IndexMemory int64
	// ScrubEvery is the time in which a store is read once to find damage; 0:
	// the journal's default.
	ScrubEvery time.Duration
	// CacheBytes is how much of the stores' files the kernel is likely to keep in
	// memory; 0: all of them, however large.
	CacheBytes int64
	// Fatal is called, once, when the site's database takes no changes any more, because it
	// is unknown what a commit that failed has left on disk. The site serves on as it is,
	// and only its next start finds out. nil: nobody is told.
	Fatal func(error)
	FS    vfs.FS      // nil: the operating system's
	Clock clock.Clock // nil: the machine's
	Log   *slog.Logger
}

// Exporter shows devices over the network block device protocol; *nbd.Server
// is one.
type Exporter interface {
	Add(name string, dev engine.Device, description string) error
	Remove(ctx context.Context, name string) error
	// Clients is how many use an export now; 0 for one that is not there.
	Clients(name string) int
}

func (c *Config) validate() error {
	if c.Name == "" || !filepath.IsAbs(c.Root) {
		return fmt.Errorf("site configuration: Name and an absolute Root are required")
	}
	if c.JournalRoot != "" && (!filepath.IsAbs(c.JournalRoot) || filepath.Clean(c.JournalRoot) == filepath.Clean(c.Root)) {
		return fmt.Errorf("site configuration: JournalRoot %q has to be absolute, and another directory than Root", c.JournalRoot)
	}
	if c.Fatal == nil {
		c.Fatal = func(error) {}
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

// Names below Root.
const (
	databaseFile = "site.db"
	volumesDir   = "volumes"
)
