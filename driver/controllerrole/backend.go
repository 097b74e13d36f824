package controllerrole

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/csikeys"
	"github.com/lockstep-csi/lockstep/journal"
)

// backend has the controller's decisions carried out by a fleet. It implements
// controller.Backend.
type backend struct {
	fleet    *fleet.Fleet
	capacity func(ctx context.Context, q controller.CapacityQuery) (controller.Capacity, error)
}

var _ controller.Backend = (*backend)(nil)

// CreateStore implements controller.Backend.
func (b *backend) CreateStore(ctx context.Context, spec controller.StoreSpec) ([]map[string]string, error) {
	if spec.BackingClass == "" {
		return nil, fmt.Errorf("%w: parameter %s names the storage class that the volume is to live on", controller.ErrInvalid, controller.ParameterBackingClass)
	}
	n := fleet.NewVolume{ID: spec.ID, Name: spec.Name, SizeBytes: spec.SizeBytes, Group: spec.Group, Settings: spec.Settings,
		Backing: fleet.BackingClass{Class: spec.BackingClass, JournalClass: spec.JournalClass},
		Node:    firstNode(spec), Expected: spec.Node, Claim: spec.Claim, Attributes: spec.Attributes}
	if spec.Source != nil {
		n.Fill = &fleet.Source{Member: spec.Source.Member, Pin: spec.Source.Pin}
	}
	placement, err := b.fleet.CreateVolume(ctx, n)
	return placement.Topology, toController(err)
}

// firstNode is the node that a volume is going to be used on first, as its
// scheduler chose it; empty if nobody has.
func firstNode(spec controller.StoreSpec) string {
	for _, set := range append(spec.Preferred, spec.Requisite...) {
		if node := set[csikeys.TopologyNode]; node != "" {
			return node
		}
	}
	return ""
}

// RetireStore implements controller.Backend.
func (b *backend) RetireStore(ctx context.Context, id journal.VolumeID) error {
	return toController(b.fleet.RetireVolume(ctx, id))
}

// DeleteStore implements controller.Backend.
func (b *backend) DeleteStore(ctx context.Context, id journal.VolumeID) error {
	return toController(b.fleet.DeleteVolume(ctx, id))
}

// ExpandStore implements controller.Backend.
func (b *backend) ExpandStore(ctx context.Context, id journal.VolumeID, sizeBytes int64) (int64, error) {
	if err := b.fleet.ExpandVolume(ctx, id, sizeBytes); err != nil {
		return 0, toController(err)
	}
	v, err := b.fleet.Volume(id)
	return v.SizeBytes, toController(err)
}

// GroupSettings implements controller.Backend.
func (b *backend) GroupSettings(_ context.Context, name string) (group.Settings, error) {
	st, err := b.fleet.Groups().State(name)
	return st.Settings, toController(err)
}

// ModifyGroup implements controller.Backend.
func (b *backend) ModifyGroup(ctx context.Context, name string, settings group.Settings) error {
	if err := settings.WithDefaults().Validate(); err != nil {
		return fmt.Errorf("%w: %w", controller.ErrInvalid, err)
	}
	return toController(b.fleet.Groups().Modify(ctx, name, settings))
}

// Attach implements controller.Backend.
func (b *backend) Attach(ctx context.Context, id journal.VolumeID, node string, options controller.AttachOptions) error {
	_, err := b.fleet.Attach(ctx, id, node, control.Attach{BlockBytes: options.BlockBytes, ReadOnly: options.ReadOnly})
	return toController(err)
}

// Detach implements controller.Backend.
func (b *backend) Detach(ctx context.Context, id journal.VolumeID) error {
	return toController(b.fleet.Detach(ctx, id))
}

// TakePin implements controller.Backend.
func (b *backend) TakePin(ctx context.Context, groupName, pin string, at controller.Moment) (controller.PinnedPoint, error) {
	selector := ""
	if !at.IsPresent() {
		selector = at.String()
	}
	point, sizes, err := b.fleet.PinPoint(ctx, groupName, pin, selector)
	if err != nil {
		if !at.Time.IsZero() && errors.Is(err, group.ErrNoPoint) {
			return controller.PinnedPoint{}, fmt.Errorf("%w: %w", controller.ErrPointGone, err)
		}
		if err = toController(err); errors.Is(err, fleet.ErrNotPinned) {
			err = fmt.Errorf("%w: %w", controller.ErrUntouched, err)
		}
		return controller.PinnedPoint{}, err
	}
	return controller.PinnedPoint{Checkpoint: point.Checkpoint, Time: point.Time, Members: sizes}, nil
}

// ReleasePin implements controller.Backend.
func (b *backend) ReleasePin(ctx context.Context, groupName, pin string) error {
	return toController(b.fleet.UnpinPoint(ctx, groupName, pin))
}

// Capacity implements controller.Backend.
func (b *backend) Capacity(ctx context.Context, q controller.CapacityQuery) (controller.Capacity, error) {
	return b.capacity(ctx, q)
}

// Health implements controller.Backend. An engine that nothing wants is no
// trouble.
func (b *backend) Health(_ context.Context, id journal.VolumeID) ([]controller.Condition, error) {
	v, err := b.fleet.Volume(id)
	if err != nil {
		return nil, toController(err)
	}
	switch {
	case v.Connected && v.State.Reason == control.ReasonDamaged:
		return []controller.Condition{{Severity: controller.DataLoss, Reason: "Damaged", Message: v.State.Error}}, nil
	case v.Connected && v.State.Error != "":
		return []controller.Condition{{Severity: controller.Inaccessible, Reason: string(v.State.Reason), Message: v.State.Error}}, nil
	case v.Attach != nil && !v.Connected:
		message := "the engine does not answer"
		if v.Err != nil {
			message = v.Err.Error()
		}
		return []controller.Condition{{Severity: controller.Inaccessible, Reason: "NoEngine", Message: message}}, nil
	case v.Connected && v.State.Store != nil && v.State.Store.Space.IsShort():
		return []controller.Condition{{Severity: controller.Degraded, Reason: "BackingFull", Message: v.State.Store.Space.String()}}, nil
	}
	return nil, nil
}

// Ready implements controller.Backend.
func (b *backend) Ready(context.Context) error { return nil }

// toController gives a fleet's errors the meaning that they have for CSI.
func toController(err error) error {
	for _, m := range []struct{ from, to error }{
		{fleet.ErrNotFound, controller.ErrNotFound}, {group.ErrNotFound, controller.ErrNotFound},
		{fleet.ErrExhausted, controller.ErrExhausted}, {journal.ErrFull, controller.ErrExhausted}, {engine.ErrNoSpace, controller.ErrExhausted},
		{fleet.ErrExists, controller.ErrExists}, {journal.ErrExists, controller.ErrExists}, {journal.ErrPinExists, controller.ErrExists},
		{groups.ErrInUse, controller.ErrInUse}, {journal.ErrHeld, controller.ErrInUse},
		{group.ErrRole, controller.ErrNotPrimary}, {groups.ErrAbsent, controller.ErrPrecondition}, {group.ErrNoPoint, controller.ErrNoPoint}, {group.ErrBadSelector, controller.ErrInvalid},
		{group.ErrBarrier, controller.ErrBarrier}, {group.ErrBusy, controller.ErrBusy}, {journal.ErrHorizon, controller.ErrPointGone},
		{journal.ErrCorrupt, controller.ErrDamaged}, {fleet.ErrClosed, controller.ErrClosed}, {fleet.ErrNoEngine, controller.ErrUnavailable}, {fleet.ErrNotBound, controller.ErrUnavailable}, {fleet.ErrNotGone, controller.ErrUnavailable}, {group.ErrAway, controller.ErrUnavailable},
	} {
		if errors.Is(err, m.from) {
			return fmt.Errorf("%w: %w", m.to, err)
		}
	}
	return err
}
