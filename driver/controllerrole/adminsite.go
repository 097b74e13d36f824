package controllerrole

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/driver/adminserver"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/journal"
)

// adminSite is a fleet as the admin API sees it.
type adminSite struct {
	fleet *fleet.Fleet
	// known is CSI's knowledge of volumes.
	known *controller.Server
	name  string
	peers func() map[string]string
}

var _ adminserver.Site = adminSite{}

func (a adminSite) Name() string             { return a.name }
func (a adminSite) Groups() *groups.Groups   { return a.fleet.Groups() }
func (a adminSite) Peers() map[string]string { return a.peers() }

// Wake implements adminserver.Site.
func (a adminSite) Wake(ctx context.Context, name string) (func(), error) {
	return a.fleet.Wake(ctx, name, true)
}

func (a adminSite) Volumes() []adminserver.Volume {
	var all []adminserver.Volume
	for _, v := range a.fleet.Volumes() {
		all = append(all, a.volumeOf(v))
	}
	return all
}

func (a adminSite) Volume(id journal.VolumeID) (adminserver.Volume, error) {
	v, err := a.fleet.Volume(id)
	if errors.Is(err, fleet.ErrNotFound) {
		err = fmt.Errorf("%w: %w", adminserver.ErrNotFound, err)
	}
	return a.volumeOf(v), err
}

func (a adminSite) volumeOf(v fleet.Volume) adminserver.Volume {
	out := adminserver.Volume{ID: v.ID, Retired: v.Retired, Name: v.Name, Group: v.Group, Node: v.Node, SizeBytes: v.SizeBytes, Device: v.State.Device, Transport: v.State.Transport, Err: v.Err}
	if why := v.State.TransportFallback; why != "" {
		out.Fallback = errors.New(why)
	}
	if namespace, name, ok := v.ClaimOf(); ok {
		out.Claim = namespace + "/" + name
	}
	out.Orphaned = a.fleet.IsOrphaned(v.ID) && a.known.MayForget(v.ID) == nil
	if v.State.Error != "" {
		out.Err = fmt.Errorf("%s: %s", v.State.Reason, v.State.Error)
	}
	if st := v.State.Store; st != nil {
		out.Tip, out.Durable, out.Horizon, out.Timelines = st.Tip, st.Durable, st.Horizon, st.Timelines
		out.Journal = journal.Stats{JournalBytes: st.JournalBytes, IndexExtents: st.IndexExtents, IndexBytes: st.IndexBytes, Space: st.Space, Damaged: st.Damaged, Repairs: journal.RepairStats{Unrepairable: st.Unrepairable}, Thinning: st.Thinning}
	}
	return out
}

// timelines are those of volumes, as their engines tell of them.
func (a adminSite) timelines(ctx context.Context, ids []journal.VolumeID) []adminserver.VolumeTimelines {
	all := make([]adminserver.VolumeTimelines, len(ids))
	for i, t := range a.fleet.Timelines(ctx, ids) {
		all[i] = adminserver.VolumeTimelines{Horizon: t.Horizon, Uses: t.Uses, Err: t.Err}
	}
	return all
}

func (a adminSite) Unpin(ctx context.Context, name, pin string) error {
	return a.fleet.UnpinPoint(ctx, name, pin)
}

// Reopen implements adminserver.Site: an engine whose journal failed ends by
// itself, and the next one recovers it.
func (a adminSite) Reopen(context.Context, journal.VolumeID) (bool, error) {
	return false, errors.New("in a cluster an engine that failed is started again by itself: see its pod's events and log")
}

// Scrub implements adminserver.Site.
func (a adminSite) Scrub(ctx context.Context, id journal.VolumeID, repair bool, told func(adminserver.ScrubStep)) (engine.Scrubbed, error) {
	told(adminserver.ScrubStep{Waiting: true})
	done, err := a.fleet.Scrub(ctx, id, repair, func(step engine.ScrubStep) { told(adminserver.ScrubStep{ScrubStep: step}) })
	switch {
	case errors.Is(err, fleet.ErrNotFound):
		err = fmt.Errorf("%w: %w", adminserver.ErrNotFound, err)
	case errors.Is(err, fleet.ErrScrubEnded):
		err = fmt.Errorf("%w: %w", adminserver.ErrScrubEnded, err)
	case errors.Is(err, fleet.ErrNoEngine), errors.Is(err, control.ErrOutdated), errors.Is(err, control.ErrNoStore):
		err = fmt.Errorf("%w: %w", adminserver.ErrNoScrub, err)
	}
	return done, err
}

// Adopt implements adminserver.Site: what a store lies on in a cluster is a claim.
func (a adminSite) Adopt(context.Context, adminserver.Adoption) (journal.VolumeID, error) {
	return journal.VolumeID{}, fmt.Errorf("in a cluster a volume's store is on a claim of its own: copy the image into a new volume: %w", adminserver.ErrNoAdoption)
}

// RemoveReplica implements adminserver.Site.
func (a adminSite) RemoveReplica(ctx context.Context, id journal.VolumeID) error {
	err := a.fleet.CheckOrphaned(id)
	if err == nil {
		err = a.known.Forget(ctx, id)
	}
	if err == nil {
		err = a.fleet.RemoveReplica(ctx, id)
	}
	switch {
	case errors.Is(err, fleet.ErrNotFound):
		return fmt.Errorf("%w: %w", adminserver.ErrNotFound, err)
	case errors.Is(err, controller.ErrInUse):
		return fmt.Errorf("%w: %w", groups.ErrInUse, err)
	}
	return err
}

func (a adminSite) OpenView(ctx context.Context, name, at string) (adminserver.View, error) {
	v, err := a.fleet.OpenView(ctx, name, at)
	if err != nil {
		return adminserver.View{}, err
	}
	return viewOf(v), nil
}

func (a adminSite) CloseView(ctx context.Context, id string) error {
	err := a.fleet.CloseView(ctx, id)
	if errors.Is(err, fleet.ErrNoView) {
		err = fmt.Errorf("%w: %w", adminserver.ErrNoView, err)
	}
	return err
}

func (a adminSite) Views() []adminserver.View {
	var all []adminserver.View
	for _, v := range a.fleet.Views() {
		all = append(all, viewOf(v))
	}
	return all
}

// nbdPort is where an engine shows images, on its pod's loopback interface.
const nbdPort = "10809"

func viewOf(v fleet.View) adminserver.View {
	out := adminserver.View{ID: v.ID, Group: v.Group, Point: v.Point}
	for _, m := range v.Members {
		uri := url.URL{Scheme: "nbd", Host: "127.0.0.1:" + nbdPort, Path: "/" + m.Export}
		out.Members = append(out.Members, adminserver.ViewMember{Volume: m.Volume, URI: uri.String()})
	}
	return out
}
