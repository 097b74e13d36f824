package site

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// volume is one volume of the site. record, eng and failed are guarded by
// Site.mu and change only under the volume's key in Site.locks.
type volume struct {
	record record         // guarded by Site.mu: a stream's announcement changes it with the group's key alone
	eng    *engine.Engine // nil while there is no store, or it failed to open
	failed error          // why the store is not open, or stopped

	stop      context.CancelFunc // of the maintenance
	stopScrub context.CancelFunc // of one that somebody waits for; nil: there is none. Guarded by Site.mu
	joined    sync.WaitGroup

	stopWatch context.CancelFunc // of watch; nil before. Guarded by Site.mu
	watching  sync.WaitGroup

	attachment *attachment // nil while not served as a device
	// lost and waiting are why the volume is attached, and its device not served; nil:
	// that is not so. Guarded by Site.mu.
	lost    *lostDevice
	waiting *waitingDevice
	kept    bool            // see setKept. Guarded by Site.mu
	shown   *engine.Guarded // eng as tools see it; nil: not at all. Guarded by Site.mu
	// exclusive is the device, while keepDevice keeps others from it. Guarded by Site.mu.
	exclusive *os.File
}

func (v *volume) store() *journal.Store { return v.eng.Store() }

// openStore opens the volume's store and begins to maintain it. A store that
// does not open leaves the volume in failed state; others are not affected.
func (s *Site) openStore(v *volume, settings group.Settings) error {
	r := s.recordOf(v)
	if r.Store == "" || v.eng != nil {
		return nil
	}
	store, err := journal.Open(s.storeConfig(r.ID, r.Store, r.OwnJournal))
	if err != nil {
		s.mu.Lock()
		v.failed = err
		s.mu.Unlock()
		if errors.Is(err, journal.ErrTailLost) { // of what the process before had acknowledged
			s.forsakeDevice(v)
		}
		return err
	}
	applyRetention(store, settings)
	s.keepAll(store, r.Group)
	s.unpinMu.Lock()
	defer s.unpinMu.Unlock()
	s.dropNoted(store)
	s.serveStore(v, store)
	return nil
}

// serveStore makes an open store the volume's. Changes are refused until its
// group is known to be primary here.
func (s *Site) serveStore(v *volume, store *journal.Store) {
	eng := engine.New(store)
	eng.SetReadOnly(true)
	eng.SetRelief(s.yieldForks)
	ctx, stop := context.WithCancel(context.Background())
	s.mu.Lock()
	v.eng, v.failed, v.stop = eng, nil, stop
	s.mu.Unlock()
	s.export(v, eng)
	s.watch(v, store)
	v.joined.Go(func() {
		if err := store.Run(ctx); err != nil {
			s.cfg.Log.Error("journal maintenance ended", "volume", s.recordOf(v).ID, "error", err)
			s.mu.Lock()
			v.failed = err
			s.mu.Unlock()
		}
	})
}

// closeStore stops maintenance and closes the store. The device must be
// detached or released, and nobody may use the engine any more; one that was released is
// taken away if the journal has lost what its users count on. groups.ErrInUse while a
// view or an open fork shows the volume.
func (s *Site) closeStore(v *volume) error {
	s.mu.Lock()
	eng, stop, err := v.eng, v.stop, s.unshownLocked(v.record.ID)
	if err == nil {
		v.eng = nil
	}
	if err == nil && v.stopScrub != nil {
		v.stopScrub()
	}
	s.mu.Unlock()
	if eng == nil || err != nil {
		return err
	}
	s.unexport(v)
	s.endWatch(v)
	stop()
	v.joined.Wait()
	err = eng.Store().Close()
	if errors.Is(errors.Join(err, eng.Store().Err()), journal.ErrTailLost) {
		s.forsakeDevice(v)
	}
	if err != nil && !errors.Is(err, journal.ErrPoisoned) {
		return err
	}
	return nil
}

// volumeOf returns a volume; ErrNotFound.
func (s *Site) volumeOf(id journal.VolumeID) (*volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.volumes[id]
	if !ok {
		return nil, fmt.Errorf("volume %s: %w", id, ErrNotFound)
	}
	return v, nil
}

// recordOf returns what is known of a volume now.
func (s *Site) recordOf(v *volume) record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return v.record
}

// engineOf returns a volume's engine, or why there is none.
func (s *Site) engineOf(id journal.VolumeID) (*engine.Engine, error) {
	v, err := s.volumeOf(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case v.eng != nil:
		return v.eng, nil
	case v.failed != nil:
		return nil, fmt.Errorf("volume %s is not open: %w", id, v.failed)
	}
	return nil, fmt.Errorf("volume %s has no store on this site yet: %w", id, ErrNotFound)
}
