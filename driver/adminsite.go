package driver

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/driver/adminserver"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// adminSite is a standalone site as the admin API sees it. Open views are shown
// over NBD.
type adminSite struct {
	site      *site.Site
	known     *controller.Server // CSI's knowledge of volumes
	exports   site.Exporter
	nbdSocket string // where exports are served
	peers     map[string]string
}

var _ adminserver.Site = adminSite{}

func (a adminSite) Name() string             { return a.site.Name() }
func (a adminSite) Groups() *groups.Groups   { return a.site.Groups() }
func (a adminSite) Peers() map[string]string { return a.peers }

// Wake implements adminserver.Site: stores of this process never rest.
func (a adminSite) Wake(context.Context, string) (func(), error) { return func() {}, nil }

func (a adminSite) Volumes() []adminserver.Volume {
	var all []adminserver.Volume
	for _, v := range a.site.Volumes() {
		all = append(all, a.volume(v))
	}
	return all
}

func (a adminSite) Volume(id journal.VolumeID) (adminserver.Volume, error) {
	v, err := a.site.Volume(id)
	if errors.Is(err, site.ErrNotFound) {
		err = fmt.Errorf("%w: %w", adminserver.ErrNotFound, err)
	}
	return a.volume(v), err
}

func (a adminSite) volume(v site.Volume) adminserver.Volume {
	out := adminserver.Volume{ID: v.ID, Name: v.Name, Group: v.Group, SizeBytes: v.SizeBytes, Device: v.Device, Transport: string(v.Transport), Fallback: v.Fallback, DeviceErr: v.DeviceErr, Store: v.StoreDir, Err: v.Err,
		Tip: v.Tip, Durable: v.Durable, Horizon: v.Horizon, Journal: v.Stats}
	out.Orphaned = a.site.CheckOrphaned(v.ID) == nil && a.known.MayForget(v.ID) == nil
	if lines, _, err := a.site.Timelines(v.ID); err == nil {
		out.Timelines = lines
	}
	return out
}

// timelines are those of volumes; a store that is not open does not tell of its own.
func (a adminSite) timelines(_ context.Context, ids []journal.VolumeID) []adminserver.VolumeTimelines {
	all := make([]adminserver.VolumeTimelines, len(ids))
	for i, id := range ids {
		all[i].Uses, all[i].Horizon, all[i].Err = a.site.TimelineUses(id)
	}
	return all
}

func (a adminSite) Unpin(ctx context.Context, name, pin string) error {
	return a.site.DropPin(ctx, name, pin)
}

func (a adminSite) Reopen(ctx context.Context, id journal.VolumeID) (bool, error) {
	return a.site.ReopenVolume(ctx, id)
}

// Scrub implements adminserver.Site.
func (a adminSite) Scrub(ctx context.Context, id journal.VolumeID, repair bool, told func(adminserver.ScrubStep)) (engine.Scrubbed, error) {
	done, err := a.site.ScrubVolume(ctx, id, repair, func(step engine.ScrubStep) { told(adminserver.ScrubStep{ScrubStep: step}) })
	if errors.Is(err, site.ErrNotFound) {
		err = fmt.Errorf("%w: %w", adminserver.ErrNotFound, err)
	}
	return done, err
}

// Adopt implements adminserver.Site. What CSI would not take is refused before the
// store moves.
func (a adminSite) Adopt(ctx context.Context, from adminserver.Adoption) (journal.VolumeID, error) {
	id, err := a.adopt(ctx, from)
	switch {
	case errors.Is(err, controller.ErrExists), errors.Is(err, journal.ErrExists):
		err = fmt.Errorf("%w: %w", adminserver.ErrExists, err)
	case errors.Is(err, controller.ErrInvalid), errors.Is(err, journal.ErrNotStore), errors.Is(err, journal.ErrNoJournal), errors.Is(err, site.ErrBadStore):
		err = fmt.Errorf("%w: %w", adminserver.ErrBadStore, err)
	}
	return id, err
}

// adoptedWindow is for how long every checkpoint of an adopted store is kept, unless
// its group exists.
const adoptedWindow = 24 * time.Hour

func (a adminSite) adopt(ctx context.Context, from adminserver.Adoption) (journal.VolumeID, error) {
	id, size, err := a.site.StoreToAdopt(from.Store)
	if err != nil {
		return id, err
	}
	known := controller.Adoption{ID: id, Name: from.Name, SizeBytes: size, Group: from.Group, BlockBytes: engineBlockBytes}
	// Nobody asked for what the store holds to be thinned.
	known.Settings = group.Settings{ReplicateTo: from.ReplicateTo, Window: adoptedWindow}.WithDefaults()
	if err := a.known.MayAdopt(known); err != nil {
		return id, err
	}
	if id, err = a.site.AdoptStore(ctx, site.Adoption{Dir: from.Store, Name: from.Name, Group: from.Group, Settings: known.Settings}); err != nil {
		return id, err
	}
	if st, err := a.site.Groups().State(from.Group); err == nil {
		known.Settings = st.Settings
	}
	if err := a.known.Adopt(ctx, known); err != nil {
		return id, err
	}
	return id, a.site.EndAdoption(ctx, id)
}

// RemoveReplica implements adminserver.Site.
func (a adminSite) RemoveReplica(ctx context.Context, id journal.VolumeID) error {
	err := a.site.CheckOrphaned(id)
	if err == nil {
		err = a.known.Forget(ctx, id)
	}
	if err == nil {
		err = a.site.RemoveReplica(ctx, id)
	}
	switch {
	case errors.Is(err, site.ErrNotFound):
		return fmt.Errorf("%w: %w", adminserver.ErrNotFound, err)
	case errors.Is(err, controller.ErrInUse):
		return fmt.Errorf("%w: %w", groups.ErrInUse, err)
	}
	return err
}

func (a adminSite) OpenView(ctx context.Context, name, at string) (adminserver.View, error) {
	v, err := a.site.OpenView(ctx, name, at)
	if err != nil {
		return adminserver.View{}, err
	}
	for _, id := range v.Members {
		dev, err := a.site.ViewDevice(v.ID, id)
		if err == nil {
			err = a.exports.Add(exportName(v.ID, id), dev, "group "+v.Group+" at "+v.Point.Time.Format(time.RFC3339Nano))
		}
		if err != nil {
			return adminserver.View{}, errors.Join(err, a.closeView(ctx, v))
		}
	}
	return a.view(v), nil
}

func (a adminSite) CloseView(ctx context.Context, id string) error {
	for _, v := range a.site.ListViews() {
		if v.ID == id {
			return a.closeView(ctx, v)
		}
	}
	return fmt.Errorf("view %s: %w", id, adminserver.ErrNoView)
}

func (a adminSite) closeView(ctx context.Context, v site.Views) error {
	var errs []error
	for _, id := range v.Members {
		errs = append(errs, a.exports.Remove(ctx, exportName(v.ID, id)))
	}
	return errors.Join(append(errs, a.site.CloseView(v.ID))...)
}

func (a adminSite) Views() []adminserver.View {
	var all []adminserver.View
	for _, v := range a.site.ListViews() {
		all = append(all, a.view(v))
	}
	return all
}

func (a adminSite) view(v site.Views) adminserver.View {
	out := adminserver.View{ID: v.ID, Group: v.Group, Point: v.Point}
	for _, id := range v.Members {
		out.Members = append(out.Members, a.export(id, exportName(v.ID, id)))
	}
	return out
}

// export is where an image of a volume is shown.
func (a adminSite) export(id journal.VolumeID, name string) adminserver.ViewMember {
	uri := url.URL{Scheme: "nbd+unix", Path: "/" + name, RawQuery: url.Values{"socket": {a.nbdSocket}}.Encode()}
	return adminserver.ViewMember{Volume: id, Socket: a.nbdSocket, URI: uri.String()}
}

// exportName names a member of a view on the NBD server (decisions/0004).
func exportName(view string, id journal.VolumeID) string { return view + "/" + id.String() }
