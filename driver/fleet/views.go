package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// View describes an open view of a group: each member's image at one point, on
// the NBD server of its engine.
type View struct {
	ID      string
	Group   string
	Point   group.Point
	Members []ViewMember // ascending by volume
}

// ViewMember is where one member's image is shown.
type ViewMember struct {
	Volume journal.VolumeID
	Export string // name on the NBD server of the volume's engine
}

type openView struct {
	View
	release func() // lets the engines go
}

// OpenView opens every member's image at a recovery point, read-only. The
// engines run until CloseView; a view does not outlive its engine's process.
func (f *Fleet) OpenView(ctx context.Context, name, at string) (View, error) {
	release, err := f.Wake(ctx, name, true)
	if err != nil {
		return View{}, err
	}
	o, err := f.openView(ctx, name, at)
	if err != nil {
		release()
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeViewTimeout)
		defer cancel()
		return View{}, errors.Join(err, f.closeMembers(closing, o.View))
	}
	o.release = release
	f.mu.Lock()
	defer f.mu.Unlock()
	f.views[o.ID] = o
	return o.View, nil
}

func (f *Fleet) openView(ctx context.Context, name, at string) (*openView, error) {
	o := &openView{View: View{Group: name}}
	var err error
	var release func()
	if o.Point, release, err = f.groups.Hold(ctx, name, at, ""); err != nil {
		return o, err
	}
	defer release()
	if o.ID, err = groups.NewID(); err != nil {
		return o, err
	}
	for _, id := range slices.SortedFunc(maps.Keys(o.Point.Members), compareIDs) {
		v, err := f.volumeOf(id)
		if err != nil {
			return o, err
		}
		client, err := f.connected(ctx, v)
		if err != nil {
			return o, err
		}
		// Before it is asked: an engine whose answer does not come may have opened it.
		o.Members = append(o.Members, ViewMember{Volume: id})
		if o.Members[len(o.Members)-1].Export, err = client.OpenView(ctx, o.ID, o.Point.Members[id]); err != nil {
			return o, err
		}
	}
	return o, nil
}

// ErrNoView means that no view of that id is open.
var ErrNoView = errors.New("no such view")

// closeViewTimeout bounds how long a view that did not open is taken back.
const closeViewTimeout = 10 * time.Second

// CloseView closes an open view, also one that an earlier controller has opened and that
// engines still have; ErrNoView.
func (f *Fleet) CloseView(ctx context.Context, id string) error {
	f.mu.Lock()
	o := f.views[id]
	delete(f.views, id)
	f.mu.Unlock()
	if o == nil {
		return f.closeLeft(ctx, id)
	}
	defer o.release()
	return f.closeMembers(ctx, o.View)
}

// closeLeft closes a view of which only engines know. It keeps history there, and an
// image from taking the place of a replica's store.
func (f *Fleet) closeLeft(ctx context.Context, id string) error {
	f.mu.Lock()
	var clients []*control.Client
	for _, v := range f.volumes {
		if v.client != nil {
			clients = append(clients, v.client)
		}
	}
	f.mu.Unlock()
	closed := false
	var errs []error
	for _, client := range clients {
		err := client.CloseView(ctx, id)
		closed = closed || err == nil
		if err != nil && !errors.Is(err, control.ErrNoView) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil || closed {
		return err
	}
	return fmt.Errorf("view %s: %w", id, ErrNoView)
}

// closeMembers closes the views of engines that still have them.
func (f *Fleet) closeMembers(ctx context.Context, view View) error {
	var errs []error
	for _, m := range view.Members {
		v, err := f.volumeOf(m.Volume)
		if err != nil {
			continue
		}
		f.mu.Lock()
		client := v.client
		f.mu.Unlock()
		if client == nil {
			continue // a view does not outlive the process
		}
		if err := client.CloseView(ctx, view.ID); err != nil && !errors.Is(err, control.ErrNoView) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Views returns the open views, by id.
func (f *Fleet) Views() []View {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []View
	for _, id := range slices.Sorted(maps.Keys(f.views)) {
		all = append(all, f.views[id].View)
	}
	return all
}

// isViewed reports whether an open view shows a volume.
func (f *Fleet) isViewed(id journal.VolumeID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.views {
		if slices.ContainsFunc(o.Members, func(m ViewMember) bool { return m.Volume == id }) {
			return true
		}
	}
	return false
}
