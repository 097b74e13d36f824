package noderole

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// keeper is the part of a Holder that the node service needs.
type keeper interface {
	Volume(id string) (holder.Volume, error)
	Await(ctx context.Context, id string) (holder.Volume, error)
	Ready() error
}

// devices implements node.Devices with the holder of this process.
type devices struct {
	holder keeper
	wait   time.Duration // of Await
}

var _ node.Devices = devices{}

// Device implements node.Devices. A device without an engine is one all the same:
// it waits, and what is mounted of it goes on when there is one.
func (d devices) Device(_ context.Context, id journal.VolumeID) (string, error) {
	v, err := d.holder.Volume(id.String())
	switch {
	case errors.Is(err, holder.ErrNotAttached) || err == nil && v.Device == "":
		return "", fmt.Errorf("volume %s has no device on this node: %w", id, node.ErrNotFound)
	case err != nil:
		return "", err
	}
	return v.Device, nil
}

// Await implements node.Devices.
func (d devices) Await(ctx context.Context, id journal.VolumeID) (string, error) {
	waiting, cancel := context.WithTimeout(ctx, d.wait)
	defer cancel()
	v, err := d.holder.Await(waiting, id.String())
	switch {
	case err == nil:
		return v.Device, nil
	case errors.Is(err, holder.ErrTrouble):
		return "", fmt.Errorf("the engine of volume %s: %w: see the log of pod engine-%s: %w", id, err, id, node.ErrUnavailable)
	}
	what := "has not attached on this node"
	switch {
	case v.Away:
		what = "served its device for an earlier node plugin and has not come back to this one"
	case v.Leased:
		what = "has the volume's descriptor and does not serve its device"
	case v.ID != "":
		what = "is gone; its device waits for the next one"
	}
	return "", fmt.Errorf("the engine of volume %s %s (waited %v): see the events and the log of pod engine-%s: %w",
		id, what, d.wait, id, node.ErrUnavailable)
}

// Ready implements node.Devices.
func (d devices) Ready(context.Context) error { return d.holder.Ready() }

// holderErrors says in the holder's words that a volume is in use.
func holderErrors(err error) error {
	if errors.Is(err, node.ErrInUse) || errors.Is(err, node.ErrBusy) {
		return fmt.Errorf("%w: %w", holder.ErrBusy, err)
	}
	return err
}
