package site

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// forkMember is one volume of an open fork.
type forkMember struct {
	volume journal.VolumeID
	parent *journal.Store // that origin is of
	origin *journal.View
	store  *journal.Store // the overlay

	stop   context.CancelFunc // of the maintenance
	joined sync.WaitGroup
}

// cutOffForkAfter is how long requests to a fork that ends may go on.
const cutOffForkAfter = 2 * time.Second

// newOverlayID draws the volume id of an overlay.
func newOverlayID() (id journal.VolumeID, err error) {
	if _, err := rand.Read(id[:]); err != nil {
		return id, fmt.Errorf("draw volume id: %w", err)
	}
	return id, nil
}

// ForkExport names a member of a fork among the site's exports.
func ForkExport(fork string, id journal.VolumeID) string { return "fork/" + fork + "/" + id.String() }

func (s *Site) forkDir(name string) string { return path.Join(s.cfg.Root, forksDir, name) }

// A member's share of the quota is made of so many segments, none smaller than that.
const (
	segmentsOfQuota = 16
	minForkSegment  = 4 << 20
)

// overlayConfig is how a member's overlay is made and opened.
func (s *Site) overlayConfig(r *forkRecord, id journal.VolumeID, origin *journal.View) journal.Config {
	largest := s.cfg.SegmentBytes
	if largest == 0 {
		largest = journal.DefaultSegmentBytes
	}
	segment := max(minForkSegment, r.QuotaBytes/int64(len(r.Point.Members))/segmentsOfQuota&^(minForkSegment-1))
	return journal.Config{FS: s.cfg.FS, Clock: s.cfg.Clock, Log: s.cfg.Log, IndexMemory: s.cfg.IndexMemory, ScrubEvery: s.cfg.ScrubEvery,
		SegmentBytes: min(segment, largest), Dir: path.Join(s.forkDir(r.Name), id.String()), Origin: origin}
}

// makeOverlays makes an empty overlay for each member of a point that is pinned;
// durable on return.
func (s *Site) makeOverlays(r *forkRecord) error {
	if err := s.removeOverlays(r.Name); err != nil { // of one that nobody knows of any more
		return err
	}
	dir := s.forkDir(r.Name)
	err := s.cfg.FS.MkdirAll(dir)
	if err == nil {
		err = errors.Join(s.cfg.FS.SyncDir(path.Dir(dir)), s.cfg.FS.SyncDir(s.cfg.Root))
	}
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	for id, at := range r.Point.Members {
		eng, err := s.engineOf(id)
		if err != nil {
			return err
		}
		parent := eng.Store()
		origin, err := parent.View(at)
		if err != nil {
			return s.openingFailed(id, parent, err)
		}
		err = journal.Create(s.overlayConfig(r, id, origin), journal.Spec{Volume: r.Overlays[id], SizeBytes: origin.SizeBytes()})
		if err = errors.Join(err, origin.Close()); err != nil {
			return err
		}
	}
	return nil
}

// removeOverlays removes what a fork that is not open has on disk.
func (s *Site) removeOverlays(name string) error {
	err := s.cfg.FS.RemoveAll(s.forkDir(name))
	if err == nil {
		err = s.cfg.FS.SyncDir(path.Join(s.cfg.Root, forksDir))
	}
	if err != nil && !errors.Is(err, vfs.ErrNotExist) {
		return fmt.Errorf("remove overlays of fork %s: %w", name, err)
	}
	return nil
}

// openFork opens the overlays of a fork that is to be open, and shows them. The
// fork's key must be held.
func (s *Site) openFork(f *fork) error {
	r := f.record
	space := &forkSpace{site: s, name: r.Name, quota: r.QuotaBytes}
	members := map[journal.VolumeID]*forkMember{}
	var err error
	for id := range r.Point.Members {
		if members[id], err = s.openForkMember(&r, id, space); err != nil {
			delete(members, id)
			break
		}
	}
	if err == nil {
		err = s.registerFork(f, members, space)
	}
	if err != nil {
		for _, m := range members {
			err = errors.Join(err, m.close())
		}
		s.mu.Lock()
		f.failed = err
		s.mu.Unlock()
		return err
	}
	for _, m := range members {
		m.serve(s)
	}
	if r.State == ForkCommitting {
		return nil
	}
	if err := s.showFork(f); err != nil {
		return errors.Join(err, s.closeFork(f))
	}
	return nil
}

// showFork has the members of an open fork used by whoever wants to; nothing if they
// are shown. The fork's key must be held.
func (s *Site) showFork(f *fork) error {
	s.mu.Lock()
	r, members, shown := f.record, f.members, f.shown
	s.mu.Unlock()
	if shown {
		return nil
	}
	for _, m := range members {
		if err := m.thaw(); err != nil {
			return err
		}
	}
	if s.cfg.Exports != nil {
		for id, m := range members {
			title := "fork " + r.Name + " of group " + r.Group + " at " + r.Point.Time.Format(time.RFC3339Nano)
			if err := s.cfg.Exports.Add(ForkExport(r.Name, id), engine.New(m.store), title); err != nil {
				s.hideFork(f)
				return err
			}
		}
	}
	s.mu.Lock()
	f.shown = true
	s.mu.Unlock()
	return nil
}

// hideFork cuts off whoever uses a fork. The fork's key must be held.
func (s *Site) hideFork(f *fork) {
	s.mu.Lock()
	name, members := f.record.Name, f.members
	f.shown = false
	s.mu.Unlock()
	if s.cfg.Exports == nil {
		return
	}
	// A client that does not take its answers must not keep production waiting.
	patience, cancel := context.WithTimeout(context.Background(), cutOffForkAfter)
	defer cancel()
	for id := range members {
		// One that was never added is no harm.
		if err := s.cfg.Exports.Remove(patience, ForkExport(name, id)); err != nil {
			s.cfg.Log.Debug("ending the export of a fork", "fork", name, "volume", id, "error", err)
		}
	}
}

// registerFork enters open members, which keep the stores below open from here on.
// groups.ErrInUse if one of them was closed meanwhile.
func (s *Site) registerFork(f *fork, members map[journal.VolumeID]*forkMember, space *forkSpace) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, m := range members {
		if err := s.checkServesLocked(id, m.parent); err != nil {
			return err
		}
	}
	f.members, f.space, f.failed = members, space, nil
	return nil
}

func (s *Site) openForkMember(r *forkRecord, id journal.VolumeID, space *forkSpace) (*forkMember, error) {
	eng, err := s.engineOf(id)
	if err != nil {
		return nil, err
	}
	m := &forkMember{volume: id, parent: eng.Store()}
	if m.origin, err = m.parent.View(r.Point.Members[id]); err != nil {
		return nil, s.openingFailed(id, m.parent, err)
	}
	cfg := s.overlayConfig(r, id, m.origin)
	cfg.Allowance = space
	if m.store, err = journal.Open(cfg); err != nil {
		return nil, errors.Join(err, m.origin.Close())
	}
	space.open(m.store, cfg.SegmentBytes)
	return m, nil
}

// serve begins to maintain an overlay.
func (m *forkMember) serve(s *Site) {
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	m.joined.Go(func() {
		if err := m.store.Run(ctx); err != nil {
			s.cfg.Log.Error("maintenance of a fork ended", "volume", m.volume, "error", err)
		}
	})
}

// close ends a member that nobody uses any more.
func (m *forkMember) close() error {
	if m.stop != nil {
		m.stop()
	}
	m.joined.Wait()
	err := m.store.Close()
	if errors.Is(err, journal.ErrPoisoned) {
		err = nil // it was told when it happened
	}
	return errors.Join(err, m.origin.Close())
}

// closeFork ends what is open of a fork, whose state stays. The fork's key must be
// held.
func (s *Site) closeFork(f *fork) error {
	s.mu.Lock()
	members := f.members
	s.mu.Unlock()
	var errs []error
	s.hideFork(f)
	for _, m := range members {
		errs = append(errs, m.close())
	}
	s.mu.Lock()
	f.members, f.space = nil, nil
	s.mu.Unlock()
	return errors.Join(errs...)
}

// closeForks closes the forks of a site that is being closed.
func (s *Site) closeForks() error {
	var errs []error
	for _, name := range s.forkNames() {
		// A write of production may be giving it up at this moment.
		unlock, err := s.locks.Lock(context.Background(), forkKey(name))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if f := s.forkOf(name); f != nil {
			errs = append(errs, s.closeFork(f))
		}
		unlock()
	}
	return errors.Join(errs...)
}

func inUseByFork(name string, id journal.VolumeID) error {
	return fmt.Errorf("fork %s shows volume %s: discard it first: %w", name, id, groups.ErrInUse)
}
