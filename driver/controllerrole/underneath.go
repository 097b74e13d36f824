package controllerrole

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/controller/backing"
	"github.com/lockstep-csi/lockstep/controller/enginepod"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
	"github.com/lockstep-csi/lockstep/journal"
)

// claims implements fleet.Backing with claims of the driver's namespace.
type claims struct {
	claims  *backing.Claims
	engines *enginepod.Engines
	site    string
}

var _ fleet.Backing = claims{}

func (c claims) spec(s fleet.BackingSpec) backing.Spec {
	return backing.Spec{Volume: s.Volume.String(), Site: c.site, Group: s.Group, Claim: s.Claim, VolumeBytes: s.VolumeBytes, JournalBytes: s.JournalBytes,
		Class: s.Class, JournalClass: s.JournalClass, New: s.New, Node: s.Node}
}

// Ensure implements fleet.Backing.
func (c claims) Ensure(ctx context.Context, s fleet.BackingSpec) (fleet.Placement, error) {
	p, err := c.claims.Ensure(ctx, c.spec(s))
	if err != nil {
		return fleet.Placement{}, backingError(err)
	}
	return fleet.Placement{Topology: p.Topology, Lease: p.Fence == backing.FenceLease || !p.Bound, Pending: !p.Bound}, nil
}

// Expand implements fleet.Backing.
func (c claims) Expand(ctx context.Context, s fleet.BackingSpec) error {
	return backingError(c.claims.Expand(ctx, c.spec(s)))
}

// Label implements fleet.Backing.
func (c claims) Label(ctx context.Context, s fleet.BackingSpec) error {
	return c.claims.Label(ctx, c.spec(s))
}

// Delete implements fleet.Backing. The engine is stopped for good by then.
func (c claims) Delete(ctx context.Context, volume journal.VolumeID) error {
	if err := c.claims.Delete(ctx, volume.String()); err != nil {
		return err
	}
	return c.engines.Forget(ctx, volume.String())
}

// backingError gives errors of backing volumes the meaning that they have for
// a fleet and for CSI.
func backingError(err error) error {
	switch {
	case errors.Is(err, backing.ErrExhausted):
		return fmt.Errorf("%w: %w", fleet.ErrExhausted, err)
	case errors.Is(err, backing.ErrNotExpandable):
		return fmt.Errorf("%w: %w: %w", controller.ErrInvalid, fleet.ErrNotExpandable, err)
	case errors.Is(err, backing.ErrClass), errors.Is(err, backing.ErrInvalid), errors.Is(err, backing.ErrTopology):
		return fmt.Errorf("%w: %w", controller.ErrInvalid, err)
	case errors.Is(err, backing.ErrNeedsEngine):
		return fmt.Errorf("%w: %w", fleet.ErrNeedsEngine, err)
	}
	return err
}

// pods implements fleet.Engines with pods.
type pods struct{ engines *enginepod.Engines }

var _ fleet.Engines = pods{}

func podOf(s fleet.EngineSpec) enginepod.Spec {
	spec := enginepod.Spec{Volume: s.Volume.String(), Claim: s.Claim, Group: s.Group, Store: kubenames.BackingClaim(s.Volume.String()),
		Node: s.Node, Attached: s.Attached, Lease: s.Lease}
	if s.OwnJournal {
		spec.Journal = kubenames.JournalClaim(spec.Volume)
	}
	return spec
}

// Run implements fleet.Engines.
func (p pods) Run(ctx context.Context, s fleet.EngineSpec, placed func(node string)) (fleet.Endpoint, error) {
	at, err := p.engines.Start(ctx, podOf(s), placed)
	if errors.Is(err, enginepod.ErrElsewhere) {
		err = fmt.Errorf("%w: %w", fleet.ErrElsewhere, err)
	}
	return fleet.Endpoint{Address: at.Address, Node: at.Node, Template: at.Template}, err
}

// Stop implements fleet.Engines.
func (p pods) Stop(ctx context.Context, volume journal.VolumeID) error {
	return p.engines.Stop(ctx, volume.String())
}

// HandOver implements fleet.Engines.
func (p pods) HandOver(ctx context.Context, s fleet.EngineSpec) error {
	return p.engines.HandOver(ctx, podOf(s))
}

// Upgrade implements fleet.Engines.
func (p pods) Upgrade(ctx context.Context, s fleet.EngineSpec) error {
	err := p.engines.Upgrade(ctx, podOf(s))
	if errors.Is(err, enginepod.ErrHeld) {
		err = fmt.Errorf("%w: %w", fleet.ErrHeld, err)
	}
	return err
}

// Template implements fleet.Engines.
func (p pods) Template() (template string, manual bool, err error) { return p.engines.Template() }
