package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/csikeys"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node"
)

// backend has the controller's and the node service's decisions carried out by
// a site in this process. It implements controller.Backend and node.Devices.
type backend struct {
	site *site.Site
	fs   vfs.FS
	root string
	// journalRoot is where the journals are; empty: in root.
	journalRoot string
	node        string // the one that volumes can be used on
}

var (
	_ controller.Backend = (*backend)(nil)
	_ node.Devices       = nodeDevices{}
)

// CreateStore implements controller.Backend.
func (b *backend) CreateStore(ctx context.Context, spec controller.StoreSpec) ([]map[string]string, error) {
	if spec.BackingClass != "" || spec.JournalClass != "" {
		return nil, fmt.Errorf("%w: a site without Kubernetes keeps volumes in its own directories (--root, --journal-root): leave %s and %s out",
			controller.ErrInvalid, controller.ParameterBackingClass, controller.ParameterJournalClass)
	}
	n := site.NewVolume{ID: spec.ID, Name: spec.Name, SizeBytes: spec.SizeBytes, Group: spec.Group, Settings: spec.Settings}
	if spec.Source != nil {
		n.Image = &site.Image{Member: spec.Source.Member, Pin: spec.Source.Pin}
	}
	return []map[string]string{{csikeys.TopologyNode: b.node}}, toController(b.site.CreateVolume(ctx, n))
}

// reserved implements controller.Config.Reserved: ids are made of names, which people
// choose, so that a name may be that of a volume that came from another site. One that
// is in no group any more, as what its primary has deleted, stays beside the new one.
func (b *backend) reserved(id journal.VolumeID) (bool, error) {
	v, err := b.site.Volume(id)
	switch {
	case errors.Is(err, site.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case v.Retired:
		return true, nil
	}
	return false, fmt.Errorf("%w: this site has volume %s in group %s", controller.ErrExists, id, v.Group)
}

// RetireStore implements controller.Backend.
func (b *backend) RetireStore(ctx context.Context, id journal.VolumeID) error {
	return toController(b.site.RetireVolume(ctx, id))
}

// DeleteStore implements controller.Backend. A volume that is not retired was another
// site's replica when it was to be, and is the copy in use if this site is the primary now.
func (b *backend) DeleteStore(ctx context.Context, id journal.VolumeID) error {
	if v, err := b.site.Volume(id); err == nil && !v.Retired {
		return nil
	}
	return toController(b.site.DeleteVolume(ctx, id))
}

// ExpandStore implements controller.Backend.
func (b *backend) ExpandStore(ctx context.Context, id journal.VolumeID, sizeBytes int64) (int64, error) {
	if err := b.site.ExpandVolume(ctx, id, sizeBytes); err != nil {
		return 0, toController(err)
	}
	v, err := b.site.Volume(id)
	return v.SizeBytes, toController(err)
}

// GroupSettings implements controller.Backend.
func (b *backend) GroupSettings(_ context.Context, name string) (group.Settings, error) {
	st, err := b.site.Groups().State(name)
	return st.Settings, toController(err)
}

// ModifyGroup implements controller.Backend.
func (b *backend) ModifyGroup(ctx context.Context, name string, settings group.Settings) error {
	if err := settings.WithDefaults().Validate(); err != nil {
		return fmt.Errorf("%w: %w", controller.ErrInvalid, err)
	}
	return toController(b.site.Groups().Modify(ctx, name, settings))
}

// Attach implements controller.Backend.
func (b *backend) Attach(ctx context.Context, id journal.VolumeID, _ string, options controller.AttachOptions) error {
	_, err := b.site.Attach(ctx, id, options.BlockBytes, options.ReadOnly)
	return toController(err)
}

// Detach implements controller.Backend.
func (b *backend) Detach(ctx context.Context, id journal.VolumeID) error {
	return toController(b.site.Detach(ctx, id))
}

// TakePin implements controller.Backend.
func (b *backend) TakePin(ctx context.Context, groupName, pin string, at controller.Moment) (controller.PinnedPoint, error) {
	selector := ""
	if !at.IsPresent() {
		selector = at.String()
	}
	point, err := b.site.Groups().PinPoint(ctx, groupName, pin, selector)
	if err != nil {
		if !at.Time.IsZero() && errors.Is(err, group.ErrNoPoint) {
			return controller.PinnedPoint{}, fmt.Errorf("%w: %w", controller.ErrPointGone, err)
		}
		return controller.PinnedPoint{}, toController(err)
	}
	pinned := controller.PinnedPoint{Checkpoint: point.Checkpoint, Time: point.Time}
	pinned.Members, err = b.site.PointSizes(point)
	return pinned, toController(err)
}

// ReleasePin implements controller.Backend.
func (b *backend) ReleasePin(ctx context.Context, _, pin string) error {
	return toController(b.site.UnpinPoint(ctx, pin))
}

// Capacity implements controller.Backend: a volume and its journal, which is as
// large by default, must find room, together or each on its own file system.
func (b *backend) Capacity(context.Context, controller.CapacityQuery) (controller.Capacity, error) {
	_, free, err := b.fs.Space(b.root)
	if err != nil {
		return controller.Capacity{}, err
	}
	room := free / 2
	if b.journalRoot != "" {
		_, forJournals, err := b.fs.Space(b.journalRoot)
		if err != nil {
			return controller.Capacity{}, err
		}
		room = min(free, forJournals)
	}
	return controller.Capacity{AvailableBytes: room, MaximumVolumeBytes: room}, nil
}

// Health implements controller.Backend.
func (b *backend) Health(_ context.Context, id journal.VolumeID) ([]controller.Condition, error) {
	v, err := b.site.Volume(id)
	if err != nil {
		return nil, toController(err)
	}
	switch {
	case v.Err == nil && v.DeviceErr != nil:
		return []controller.Condition{{Severity: controller.Inaccessible, Reason: "DeviceNotServed", Message: v.DeviceErr.Error()}}, nil
	case v.Err == nil:
		return nil, nil
	case errors.Is(v.Err, journal.ErrCorrupt):
		return []controller.Condition{{Severity: controller.DataLoss, Reason: "Damaged", Message: v.Err.Error()}}, nil
	case v.Open && !errors.Is(v.Err, journal.ErrPoisoned):
		return []controller.Condition{{Severity: controller.Degraded, Reason: "MaintenanceStopped", Message: v.Err.Error()}}, nil
	}
	return []controller.Condition{{Severity: controller.Inaccessible, Reason: "NotServed", Message: v.Err.Error()}}, nil
}

// Ready implements controller.Backend and node.Devices.
func (b *backend) Ready(context.Context) error { return nil }

// nodeDevices implements node.Devices.
type nodeDevices struct{ *backend }

// Device implements node.Devices.
func (d nodeDevices) Device(_ context.Context, id journal.VolumeID) (string, error) {
	device, err := d.site.Device(id)
	if errors.Is(err, site.ErrNotFound) {
		return "", fmt.Errorf("%w: %w", node.ErrNotFound, err)
	}
	return device, err
}

// Await implements node.Devices: a site attaches before it says so.
func (d nodeDevices) Await(ctx context.Context, id journal.VolumeID) (string, error) {
	return d.Device(ctx, id)
}

// meaning maps errors below to the controller's; the first match counts.
var meaning = []struct{ from, to error }{
	{groups.ErrInUse, controller.ErrInUse},
	{site.ErrNoHolder, controller.ErrUnavailable},
	{site.ErrNotFound, controller.ErrNotFound},
	{group.ErrNotFound, controller.ErrNotFound},
	{group.ErrRole, controller.ErrNotPrimary},
	{groups.ErrAbsent, controller.ErrPrecondition},
	{group.ErrNoPoint, controller.ErrNoPoint},
	{group.ErrBadSelector, controller.ErrInvalid},
	{group.ErrBarrier, controller.ErrBarrier},
	{group.ErrBusy, controller.ErrBusy},
	{journal.ErrExists, controller.ErrExists},
	{journal.ErrFull, controller.ErrExhausted},
	{engine.ErrNoSpace, controller.ErrExhausted},
	{journal.ErrHorizon, controller.ErrPointGone},
	{journal.ErrCorrupt, controller.ErrDamaged},
	{journal.ErrPoisoned, controller.ErrDamaged},
	{vfs.ErrNoSpace, controller.ErrExhausted},
}

func toController(err error) error {
	if err == nil {
		return nil
	}
	i := slices.IndexFunc(meaning, func(m struct{ from, to error }) bool { return errors.Is(err, m.from) })
	if i < 0 {
		return err
	}
	return fmt.Errorf("%w: %w", meaning[i].to, err)
}
