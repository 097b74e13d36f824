package journal

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// Create makes an empty store of zeroes with a new root timeline. On return
// it is durable. ErrExists if the directory holds a store; the remains of a
// creation that did not finish are removed.
func Create(cfg Config, spec Spec) error {
	im, err := NewImport(cfg, spec, Position{}, nil)
	if err != nil {
		return err
	}
	return im.Commit()
}

// Import is a store that is being filled with an image: a first sync, a
// restore or a clone. It becomes a store at Commit; before, and after a
// crash, the directory is not one. Its methods are for one goroutine.
type Import struct {
	cfg       Config
	spec      Spec
	at        Position
	timelines []Timeline
	foreign   bool   // the timelines are another store's
	journal   string // id of the journal's own directory; empty: it has none
	base      vfs.File
	sums      baseSums // no file if the base is an image that was taken over
	scratch   sumScratch
	edges     []byte // room for sectors of which only a part was written
	lock      io.Closer
	done      bool
	image     string // a file that becomes the base; see TakeImage
}

// NewImport begins a store whose base image will be the content of the volume
// at a position. With a replica of another store of the same volume, at and
// timelines are the source's; at must lie on one of them. A zero at begins a
// root timeline of its own. ErrExists if the directory holds a store, ErrInUse
// if another import is filling it; what an interrupted one left is removed.
func NewImport(cfg Config, spec Spec, at Position, timelines []Timeline) (*Import, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := spec.validate(); err != nil {
		return nil, err
	}
	if o := cfg.Origin; o != nil && (o.SizeBytes() != spec.SizeBytes || o.Volume() == spec.Volume) {
		return nil, fmt.Errorf("make an overlay %s of %d bytes over volume %s of %d bytes: %w", spec.Volume, spec.SizeBytes, o.Volume(), o.SizeBytes(), ErrRange)
	}
	im := &Import{cfg: cfg, spec: spec, at: at, timelines: timelines}
	if err := im.begin(); err != nil {
		return nil, err
	}
	return im, nil
}

func (im *Import) begin() error {
	if err := im.chooseTimeline(); err != nil {
		return fmt.Errorf("import volume %s: %w", im.spec.Volume, err)
	}
	if err := im.prepare(); err != nil {
		return fmt.Errorf("import volume %s: %w", im.spec.Volume, errors.Join(mapFull(err), im.release()))
	}
	return nil
}

func (im *Import) chooseTimeline() error {
	if im.at.Timeline != 0 {
		im.foreign = true
		for _, line := range im.timelines {
			if line.ID == im.at.Timeline {
				return nil
			}
		}
		return fmt.Errorf("image at %s: %w", im.at, ErrUnknownPosition)
	}
	id, err := newTree(nil).newTimelineID(im.cfg.Random)
	if err != nil {
		return err
	}
	im.at = Position{Timeline: id}
	im.timelines = []Timeline{{ID: id, Created: im.cfg.Clock.Now().UTC(), Reason: "created"}}
	return nil
}

// prepare makes the directory and an empty base.
func (im *Import) prepare() error {
	fs := im.cfg.FS
	if err := fs.MkdirAll(im.cfg.Dir); err != nil {
		return err
	}
	lock, err := lockStore(&im.cfg)
	if err != nil {
		return err
	}
	im.lock = lock
	if _, err := fs.Stat(im.cfg.file(volumeFile)); err == nil {
		return ErrExists
	} else if !errors.Is(err, vfs.ErrNotExist) {
		return err
	}
	if im.cfg.JournalDir != "" {
		if err := im.takeJournalDir(); err != nil {
			return err
		}
	}
	if err := im.clear(); err != nil {
		return err
	}
	if err := fs.MkdirAll(im.cfg.file(journalDir)); err != nil {
		return err
	}
	im.base, err = im.makeBase()
	if err != nil {
		return err
	}
	if err := im.base.Truncate(im.spec.SizeBytes); err != nil {
		return err
	}
	if im.image != "" {
		return nil // its bytes get checksums from the scrub
	}
	sums, err := fs.Create(im.cfg.file(baseSumsFile))
	if err != nil {
		return err
	}
	im.sums = newBaseSums(sums, im.spec.Volume)
	return sums.Truncate(sumOffset(im.spec.SizeBytes))
}

// makeBase makes the base's file, of an image where there is one.
func (im *Import) makeBase() (vfs.File, error) {
	if im.image != "" {
		return im.linkImage()
	}
	return im.cfg.FS.Create(im.cfg.file(baseFile))
}

// clear removes what an interrupted import, or an interrupted removal of a
// store, has left: a segment of it could be taken for one of the new store's.
func (im *Import) clear() error {
	if im.journal != "" {
		if err := im.clearJournalDir(); err != nil {
			return err
		}
	}
	for _, left := range []string{baseFile, baseSumsFile, catalogFile, journalDir, volumeFile + tempSuffix} {
		if err := im.cfg.FS.RemoveAll(path.Join(im.cfg.Dir, left)); err != nil {
			return err
		}
	}
	return nil
}

func lockStore(cfg *Config) (io.Closer, error) { return lockFileOf(cfg, lockFile) }

func lockFileOf(cfg *Config, name string) (io.Closer, error) {
	lock, err := cfg.FS.Lock(cfg.file(name))
	if errors.Is(err, vfs.ErrLocked) {
		return nil, fmt.Errorf("%w: %s", ErrInUse, path.Dir(cfg.file(name)))
	}
	return lock, err
}

// WriteAt stores a part of the image; not durable before Commit. ErrRange
// beyond the volume's size.
func (im *Import) WriteAt(p []byte, off int64) error {
	if off < 0 || off > im.spec.SizeBytes-int64(len(p)) {
		return fmt.Errorf("import %d bytes at %d: %w", len(p), off, ErrRange)
	}
	if _, err := im.base.WriteAt(p, off); err != nil {
		return fmt.Errorf("import %d bytes at %d: %w", len(p), off, mapFull(err))
	}
	if err := im.writeSums(p, off); err != nil {
		return fmt.Errorf("import checksums of %d bytes at %d: %w", len(p), off, mapFull(err))
	}
	return nil
}

// writeSums writes the checksums of what was written. Sectors of which that is
// only a part are read again.
func (im *Import) writeSums(p []byte, off int64) error {
	start, end := off&^(SectorBytes-1), (off+int64(len(p))+SectorBytes-1)&^(SectorBytes-1)
	if end-start != int64(len(p)) {
		im.edges = slices.Grow(im.edges[:0], int(end-start))[:end-start]
		if err := readFull(im.base, im.edges, start); err != nil {
			return err
		}
		p = im.edges
	}
	for len(p) > 0 {
		n := min(len(p), maxSummedBytes)
		if _, err := im.sums.file.WriteAt(im.sums.encode(&im.scratch, p[:n], start), sumOffset(start)); err != nil {
			return err
		}
		p, start = p[n:], start+int64(n)
	}
	return nil
}

// Commit makes the import a store, durable on return; so are the names of its
// directory and its journal's, but not those of the directories above them. The import is over whether
// or not it succeeds. A failed one leaves no store, unless the very last sync
// of the directory failed: then the next Open tells.
func (im *Import) Commit() error {
	if im.done {
		return ErrClosed
	}
	err := im.base.Sync()
	if err == nil && im.sums.file != nil {
		err = im.sums.file.Sync()
	}
	if err == nil {
		err = im.writeCatalog()
	}
	// All that the identity stands for is durable before it is there.
	dirs := []string{im.cfg.file(journalDir), im.cfg.Dir, path.Dir(im.cfg.Dir)}
	if im.cfg.JournalDir != "" {
		dirs = append(dirs, path.Dir(im.cfg.JournalDir))
	}
	for _, dir := range dirs {
		if err == nil {
			err = im.cfg.FS.SyncDir(dir)
		}
	}
	if err == nil {
		err = im.writeIdentity()
	}
	if err = errors.Join(mapFull(err), im.release()); err != nil {
		return fmt.Errorf("commit import of volume %s: %w", im.spec.Volume, err)
	}
	return nil
}

// writeIdentity makes the directory a store; durable on return.
func (im *Import) writeIdentity() error {
	id := newIdentity(im.spec.Volume, im.cfg.Clock.Now(), im.journal)
	id.setOrigin(im.cfg.Origin)
	b, err := id.encode()
	if err == nil {
		err = writeTemp(&im.cfg, volumeFile, b)
	}
	if err == nil && im.journal != "" {
		err = im.writeJournalIdentity()
	}
	if err == nil {
		err = publish(&im.cfg, volumeFile)
	}
	return err
}

func (im *Import) writeCatalog() error {
	db, err := im.cfg.FS.OpenDB(im.cfg.file(catalogFile))
	if err != nil {
		return err
	}
	c := catalog{db}
	err = db.Update(func(tx kv.Tx) error {
		for _, line := range im.timelines {
			if err := c.saveTimeline(tx, line); err != nil {
				return err
			}
		}
		tip := im.at
		state := catalogState{SizeBytes: im.spec.SizeBytes, Active: im.at.Timeline, Base: im.at, Horizon: im.at, BaseBytes: im.spec.SizeBytes}
		if im.sums.file != nil { // an image that was taken over has none: the scrub makes them
			state.Summed = im.spec.SizeBytes
		}
		if !im.foreign {
			state.CleanTip = &tip
		} // else a local append begins a timeline of its own
		return c.saveState(tx, state)
	})
	return errors.Join(err, db.Close())
}

// Abort gives up and removes what was written, all but the lock's file. No
// effect after Commit.
func (im *Import) Abort() error {
	if im.done {
		return nil
	}
	err := errors.Join(im.clear(), im.release())
	if err != nil {
		return fmt.Errorf("abort import of volume %s: %w", im.spec.Volume, err)
	}
	return nil
}

func (im *Import) release() error {
	im.done = true
	var err error
	if im.base != nil {
		err = im.base.Close()
	}
	if im.sums.file != nil {
		err = errors.Join(err, im.sums.file.Close())
	}
	if im.lock != nil {
		err = errors.Join(err, im.lock.Close())
	}
	return err
}

// mapFull turns the file system's lack of space into ErrFull, but for one that has poisoned the
// store: no room helps it.
func mapFull(err error) error {
	if errors.Is(err, vfs.ErrNoSpace) && !errors.Is(err, ErrPoisoned) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
