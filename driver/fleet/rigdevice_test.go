package fleet_test

import (
	"context"

	"github.com/lockstep-csi/lockstep/driver/enginepod"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/journal"
)

// device is what an engine has attached; there is no kernel.
type device struct {
	engine.Device
	busy bool
	gone bool // withdrawn
	lost chan struct{}
	// fallback is why it is not over io_uring.
	fallback error
}

func (p *process) Attach(_ context.Context, _ control.Attach, dev engine.Device, _ *string, keep func(string) error) (enginepod.Device, error) {
	if p.unfit != nil {
		return nil, p.unfit
	}
	if p.attaching != nil {
		p.attaching()
	}
	if err := keep("0123456789abcdef"); err != nil {
		return nil, err
	}
	p.devMu.Lock()
	defer p.devMu.Unlock()
	p.dev = &device{Device: dev, lost: make(chan struct{}), fallback: p.fallback}
	return p.dev, nil
}

// Waiting implements enginepod.Devices: there is no node that would keep a device.
func (p *process) Waiting(context.Context, *string) (*control.Attach, error) {
	if p.waiting != nil {
		return nil, p.waiting()
	}
	return nil, nil
}

func (d *device) Path() string                       { return "/dev/test0" }
func (d *device) Resize(context.Context) error       { return nil }
func (d *device) Transport() (fuse.Transport, error) { return fuse.TransportDevice, d.fallback }
func (d *device) Lost() <-chan struct{}              { return d.lost }
func (d *device) Release() error                     { return nil }

func (d *device) Abandon(context.Context) error {
	d.gone = true
	return nil
}

func (d *device) Unused(ctx context.Context) error {
	return d.Detach(ctx)
}

func (d *device) Withdraw(ctx context.Context) error {
	if err := d.Detach(ctx); err != nil {
		return err
	}
	d.gone = true
	return nil
}

func (d *device) Detach(context.Context) error {
	if d.busy {
		return control.ErrDeviceInUse
	}
	return nil
}

// device is a volume's attached device.
func (c *cluster) device(id journal.VolumeID) *device {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.engines[id]
	dev := p.attached()
	if dev == nil {
		c.t.Fatalf("volume %s is not attached", id)
	}
	return dev
}

// attached is the device of an engine, which may be none; nil: it has none.
func (p *process) attached() *device {
	if p == nil {
		return nil
	}
	p.devMu.Lock()
	defer p.devMu.Unlock()
	return p.dev
}
