package enginepod

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/lockstep-csi/lockstep/journal"
)

// The stores of a volume are in directories of its backing volume that are named
// by their generation. Where the journal has a backing volume of its own, their
// journals are there, in directories of the same names.

const storePrefix = "store-"

// storeDir names a store's directory.
func storeDir(generation int) string { return fmt.Sprintf("%s%d", storePrefix, generation) }

// storeConfig is how a store of the pod is made and opened.
func (p *Pod) storeConfig(name string) journal.Config {
	c := journal.Config{FS: p.cfg.FS, Clock: p.cfg.Clock, Log: p.cfg.Log, SegmentBytes: p.cfg.SegmentBytes, IndexMemory: p.cfg.IndexMemory, ScrubEvery: p.cfg.ScrubEvery,
		CacheBytes: p.cfg.CacheBytes,
		Dir:        path.Join(p.cfg.Dir, name)}
	if p.cfg.JournalDir != "" {
		c.JournalDir = path.Join(p.cfg.JournalDir, name)
	}
	return c
}

// makeStoreDir makes a store's directory; durable on return.
func (p *Pod) makeStoreDir(name string) error {
	err := p.cfg.FS.MkdirAll(path.Join(p.cfg.Dir, name))
	if err == nil {
		err = p.cfg.FS.SyncDir(p.cfg.Dir)
	}
	return err
}

// removeStore removes a store that is not open, or what there is of one, and its
// journal.
func (p *Pod) removeStore(name string) error {
	err := p.cfg.FS.RemoveAll(path.Join(p.cfg.Dir, name))
	if err == nil && p.cfg.JournalDir != "" {
		err = journal.RemoveJournal(p.cfg.FS, path.Join(p.cfg.JournalDir, name), p.cfg.Volume)
	}
	return err
}

// removeStrayStores removes stores and journals that the record does not name:
// what an interrupted import or replacement left behind. What the next store of a
// primary will have may be complete, and stays. So does everything as long as the store that
// the record names is not there: one of the others may be what is left of the volume.
func (p *Pod) removeStrayStores() {
	r := p.recordNow()
	if r.Store == "" || !journal.IsStore(p.cfg.FS, path.Join(p.cfg.Dir, r.Store)) {
		return
	}
	var names []string
	for _, dir := range []string{p.cfg.Dir, p.cfg.JournalDir} {
		if dir == "" {
			continue
		}
		found, err := p.cfg.FS.ReadDir(dir)
		if err != nil {
			continue // whatever it is, it comes again
		}
		names = append(names, found...)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, storePrefix) || name == r.Store {
			continue
		}
		if err := p.removeStore(name); err != nil {
			p.cfg.Log.Warn("removing a stray store failed", "volume", p.cfg.Volume, "store", name, "error", err)
		}
	}
}

// discard removes a store that is not to be one; it returns err with what went
// wrong then.
func (p *Pod) discard(name string, err error) error { return errors.Join(err, p.removeStore(name)) }
