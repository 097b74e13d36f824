package enginepod

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

// Devices provides block devices on this node.
type Devices interface {
	// Attach serves dev as a block device and returns when it is there. It
	// takes over a device of this volume that waits for an engine, if that has the
	// identity last; nil: whichever. Another one is taken away from its users. keep is
	// called with the device's identity before anybody can use the device, and makes it
	// durable; with its error there is no device. ctx bounds the call, not the device.
	Attach(ctx context.Context, how control.Attach, dev engine.Device, last *string, keep func(identity string) error) (Device, error)
	// Waiting tells how a device looks that waits on this node for an engine of this
	// volume, of those that Attach would take over; nil: none does.
	Waiting(ctx context.Context, last *string) (*control.Attach, error)
}

// Device is an attached block device.
type Device interface {
	// Path is its path on the node, /dev/loopN.
	Path() string
	// Transport is how its requests come from the kernel; the error says why that
	// is not what the node was asked for, and is nil if it is.
	Transport() (fuse.Transport, error)
	// Resize shows the device's new size to the kernel.
	Resize(ctx context.Context) error
	// Detach takes the device away once everything written to it is with the
	// engine; control.ErrDeviceInUse, and nothing happened, while it is open.
	Detach(ctx context.Context) error
	// Unused returns control.ErrDeviceInUse while anything on the node has the device
	// mounted, claimed or published. Withdraw takes it away, as Detach does, if
	// beside that no process has it open; with ErrDeviceInUse nothing happened. Both
	// are refused so by a node that cannot know.
	Unused(ctx context.Context) error
	Withdraw(ctx context.Context) error
	// Abandon takes the device away from whoever uses it: all that is under way, and all
	// that comes, is an I/O error. With an error that may be so or not, and Release follows.
	Abandon(ctx context.Context) error
	// Release stops serving; I/O waits for the next engine.
	Release() error
	// Lost is closed when another engine has the device, or nobody can be served by it any
	// more: this one must end.
	Lost() <-chan struct{}
}

// attach provides the device, or brings an attached one up to date. The turn
// must be held.
func (p *Pod) attach(ctx context.Context, eng *engine.Engine, how control.Attach) error {
	p.mu.Lock()
	device, attached, shown := p.device, p.attached, p.shown
	p.mu.Unlock()
	if device != nil {
		if *attached != how {
			return fmt.Errorf("volume %s is attached with other options: %w", p.cfg.Volume, control.ErrDeviceInUse)
		}
		return device.Resize(ctx)
	}
	if p.cfg.Devices == nil {
		return errors.New("this engine cannot attach devices: no holder was named")
	}
	// Since the record says so tools change nothing. What they wrote before comes first.
	if err := shown.Settle(ctx); err != nil {
		return fmt.Errorf("attach volume %s: %w", p.cfg.Volume, err)
	}
	device, err := p.cfg.Devices.Attach(ctx, how, eng, p.recordNow().Device, p.keepDevice)
	if err != nil {
		return fmt.Errorf("attach volume %s: %w", p.cfg.Volume, err)
	}
	p.cfg.Log.Info("engine serves its device", "volume", p.cfg.Volume, "device", device.Path())
	watching, unwatch := context.WithCancel(p.ctx)
	p.mu.Lock()
	p.device, p.attached, p.unwatch = device, &how, unwatch
	p.notifyLocked()
	p.mu.Unlock()
	p.working.Go(func() {
		select {
		case <-device.Lost():
			p.die(fmt.Errorf("device of volume %s: %w", p.cfg.Volume, control.ErrLeaseLost))
		case <-watching.Done():
		}
	})
	return nil
}

// keepDevice makes the identity of the volume's device durable; empty: it has none. An
// engine that dies before leaves a device that nobody has used, and the next one does
// not take that over.
func (p *Pod) keepDevice(identity string) error {
	now, boot, disk := p.recordNow(), p.cfg.Boot, p.cfg.Disk
	if now.Device == nil && identity == "" || now.hasDevice(identity, boot, disk) {
		return nil
	}
	return p.updateRecord(func(r *record) { r.setDevice(identity, boot, disk) })
}

// outdateDevices makes durable that the volume has no device: one that waits somewhere
// for an engine, with what the kernel keeps of it, must never meet what the volume is
// to hold. The pod has no device, or one that is lost (outdateLost), and the turn must be held.
func (p *Pod) outdateDevices() error {
	if now := p.recordNow(); now.devicesOutdated() {
		return nil
	}
	return p.updateRecord(func(r *record) { r.setDevice("", "", "") })
}

// detach takes the device away and makes everything written to it durable. From then
// on no device of before is taken over. One that waits here for its engine, which this
// one is, is taken over first, so that whoever uses it is asked and loses nothing. No
// error if there is none. The turn must be held, and the store be open if there is one.
func (p *Pod) detach(ctx context.Context) error {
	if err := p.findDevice(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	device, eng := p.device, p.eng
	p.mu.Unlock()
	if device == nil {
		return p.outdateDevices()
	}
	if err := device.Detach(ctx); err != nil {
		return fmt.Errorf("detach volume %s: %w", p.cfg.Volume, err)
	}
	p.forgetDevice()
	return errors.Join(p.outdateDevices(), eng.Flush(ctx))
}

// findDevice serves the volume's device if that waits on this node, as it does when
// the process has just started. control.ErrDeviceInUse, so that the order is given
// again, as long as it is not known, or what waits cannot be taken over. The turn must
// be held.
func (p *Pod) findDevice(ctx context.Context) error {
	now := p.recordNow()
	if p.isAttached() || now.devicesOutdated() || now.Store == "" || p.cfg.Devices == nil {
		return nil
	}
	eng, err := p.Engine()
	if err != nil {
		return err
	}
	how, err := p.cfg.Devices.Waiting(ctx, now.Device)
	if err == nil && how != nil {
		err = p.attach(ctx, eng, *how)
	}
	if err != nil {
		return fmt.Errorf("volume %s may have a device of the engine before this one: %w: %w", p.cfg.Volume, control.ErrDeviceInUse, err)
	}
	return nil
}

// forgetDevice is for a device that is gone.
func (p *Pod) forgetDevice() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unwatch()
	p.device, p.attached = nil, nil
	p.notifyLocked()
}

// release stops serving the device and leaves it to the next engine.
func (p *Pod) release() error {
	p.mu.Lock()
	device, unwatch := p.device, p.unwatch
	p.device, p.attached = nil, nil
	p.mu.Unlock()
	if device == nil {
		return nil
	}
	unwatch()
	return device.Release()
}

// wantsDevice reports whether the volume is ordered to have a device: somebody
// may be using it.
func (p *Pod) wantsDevice() bool { return p.recordNow().Orders.Attach != nil }

// Leave shows that the process was told to end, and serves on until a successor
// waits for its place.
func (p *Pod) Leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaving = true
	p.notifyLocked()
}

// mayBeAttached reports whether somebody may have the volume mounted: there is a device,
// or one is ordered, or that of an engine before this one was never taken away and may
// wait somewhere, with whoever uses it.
func (p *Pod) mayBeAttached() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.device != nil || p.deviceWaitsLocked()
}

// deviceWaitsLocked reports whether, with no device served, there may be one that waits to
// be. mu must be held.
func (p *Pod) deviceWaitsLocked() bool {
	return p.record.Orders.Attach != nil || !p.record.devicesOutdated()
}

// isAttached reports whether there is a device.
func (p *Pod) isAttached() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.device != nil
}
