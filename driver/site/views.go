package site

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// openView is a recovery point that is shown, one view per member.
type openView struct {
	Views
	views  map[journal.VolumeID]*journal.View
	stores map[journal.VolumeID]*journal.Store // that the views are of
}

// Views describes an open view of a group.
type Views struct {
	ID      string
	Group   string
	Point   group.Point
	Members []journal.VolumeID // ascending
}

// OpenView opens every member's image at a recovery point, read-only. It
// stays open, and its records in the journal, until CloseView or Close.
func (s *Site) OpenView(ctx context.Context, name, at string) (Views, error) {
	point, release, err := s.groups.Hold(ctx, name, at, "")
	if err != nil {
		return Views{}, err
	}
	defer release()
	id, err := groups.NewID()
	if err != nil {
		return Views{}, err
	}
	o := &openView{Views: Views{ID: id, Group: name, Point: point},
		views: map[journal.VolumeID]*journal.View{}, stores: map[journal.VolumeID]*journal.Store{}}
	for id, pos := range point.Members {
		eng, err := s.engineOf(id)
		if err != nil {
			return Views{}, errors.Join(err, o.close())
		}
		o.stores[id] = eng.Store()
		if o.views[id], err = eng.Store().View(pos); err != nil {
			delete(o.views, id)
			return Views{}, errors.Join(s.openingFailed(id, o.stores[id], err), o.close())
		}
		o.Members = append(o.Members, id)
	}
	slices.SortFunc(o.Members, func(a, b journal.VolumeID) int { return slices.Compare(a[:], b[:]) })
	if err := s.registerView(o); err != nil {
		return Views{}, errors.Join(err, o.close())
	}
	return o.Views, nil
}

// registerView enters a view, which keeps its stores open from here on. groups.ErrInUse
// if one of them was closed while it was being opened.
func (s *Site) registerView(o *openView) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, store := range o.stores {
		if err := s.checkServesLocked(id, store); err != nil {
			return err
		}
	}
	s.views[o.ID] = o
	return nil
}

// checkServesLocked makes sure that a store is still its volume's; groups.ErrInUse.
func (s *Site) checkServesLocked(id journal.VolumeID, store *journal.Store) error {
	if v := s.volumes[id]; v == nil || v.eng == nil || v.store() != store {
		return fmt.Errorf("volume %s was closed meanwhile: try again: %w", id, groups.ErrInUse)
	}
	return nil
}

// openingFailed returns why a view of a store could not be opened: err, unless the store was
// closed meanwhile, which err then is a consequence of.
func (s *Site) openingFailed(id journal.VolumeID, store *journal.Store, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if closed := s.checkServesLocked(id, store); closed != nil {
		return closed
	}
	return err
}

// ViewDevice returns a member of an open view as a device. Nobody may use it
// after CloseView.
func (s *Site) ViewDevice(view string, id journal.VolumeID) (engine.Device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.views[view]
	if o == nil || o.views[id] == nil {
		return nil, fmt.Errorf("view %s of volume %s: %w", view, id, ErrNoView)
	}
	return engine.NewViewDevice(o.views[id]), nil
}

// CloseView closes an open view; ErrNoView.
func (s *Site) CloseView(id string) error {
	s.mu.Lock()
	o := s.views[id]
	delete(s.views, id)
	s.mu.Unlock()
	if o == nil {
		return fmt.Errorf("view %s: %w", id, ErrNoView)
	}
	return o.close()
}

// ListViews returns the open views, by id.
func (s *Site) ListViews() []Views {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Views
	for _, id := range slices.Sorted(maps.Keys(s.views)) {
		all = append(all, s.views[id].Views)
	}
	return all
}

// unshownLocked makes sure that neither a view nor an open fork shows a volume;
// groups.ErrInUse.
func (s *Site) unshownLocked(id journal.VolumeID) error {
	for name, f := range s.forks {
		if f.members[id] != nil {
			return inUseByFork(name, id)
		}
	}
	return s.unviewedLocked(id)
}

// checkUnviewed makes sure that no open view shows a volume; groups.ErrInUse.
func (s *Site) checkUnviewed(id journal.VolumeID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unviewedLocked(id)
}

func (s *Site) unviewedLocked(id journal.VolumeID) error {
	for name, o := range s.views {
		if o.views[id] != nil {
			return fmt.Errorf("view %s on site %s shows volume %s: close it first: %w", name, s.cfg.Name, id, groups.ErrInUse)
		}
	}
	return nil
}

func (s *Site) closeViews() error {
	var errs []error
	for _, v := range s.ListViews() {
		errs = append(errs, s.CloseView(v.ID))
	}
	return errors.Join(errs...)
}

func (o *openView) close() error {
	var errs []error
	for _, v := range o.views {
		errs = append(errs, v.Close())
	}
	return errors.Join(errs...)
}
