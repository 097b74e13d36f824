package enginepod

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/journal"
)

// Withdraw implements control.Volume. The device goes first, and the orders are
// accepted then: an engine that dies in between has orders to serve it, and does.
func (p *Pod) Withdraw(ctx context.Context, o *control.Orders) error {
	if o == nil {
		return p.checkUnused(ctx)
	}
	if err := p.checkOrders(*o); err != nil {
		return err
	}
	if err := p.take(ctx); err != nil {
		return err
	}
	result := make(chan error, 1)
	p.working.Go(func() {
		defer func() { p.turn <- struct{}{} }()
		err := p.withdraw(p.ctx, *o)
		if err != nil {
			p.tryOn()
		}
		result <- err
	})
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("withdraw device of volume %s: %w", p.cfg.Volume, ctx.Err())
	}
}

// withdraw runs with the turn held.
func (p *Pod) withdraw(ctx context.Context, o control.Orders) error {
	if err := p.checkNewer(o); err != nil {
		return err
	}
	device, err := p.deviceNow()
	if err != nil {
		return err
	}
	if device != nil {
		err := device.Withdraw(ctx)
		if errors.Is(err, control.ErrDeviceInUse) {
			return fmt.Errorf("withdraw device of volume %s: %w", p.cfg.Volume, err)
		}
		if err != nil {
			// It may be there, or half of it: a new process finds out.
			err = fmt.Errorf("withdraw device of volume %s: %w", p.cfg.Volume, err)
			p.die(err)
			return err
		}
		p.forgetDevice()
		eng, err := p.Engine()
		if err == nil {
			err = eng.Flush(ctx)
		}
		if err != nil {
			return p.undone(err)
		}
	}
	if err := p.accept(ctx, o); err != nil {
		return p.undone(err)
	}
	return p.carryOut(ctx, o)
}

// undone notes why the orders in force are not carried out any more: their device is gone.
func (p *Pod) undone(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failure = err
	p.notifyLocked()
	return err
}

// checkUnused looks whether the device could be withdrawn.
func (p *Pod) checkUnused(ctx context.Context) error {
	device, err := p.deviceNow()
	if err != nil || device == nil {
		return err
	}
	return device.Unused(ctx)
}

// deviceNow is the device, or nil where there is none. One that is wanted, or was never
// taken away, and is not served yet may be in use, as that of the engine before this one.
func (p *Pod) deviceNow() (Device, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.device == nil && p.deviceWaitsLocked() {
		return nil, fmt.Errorf("device of volume %s is not served yet: %w", p.cfg.Volume, control.ErrDeviceInUse)
	}
	return p.device, nil
}

// Fork implements control.Volume. It has the turn, so that no device comes
// meanwhile, and none that waits somewhere is taken over afterwards.
func (p *Pod) Fork(ctx context.Context, at journal.Position, reason string) error {
	if err := p.take(ctx); err != nil {
		return err
	}
	defer func() { p.turn <- struct{}{} }()
	device, err := p.deviceNow()
	if err == nil && device != nil {
		err = fmt.Errorf("%s is attached: %w", device.Path(), control.ErrDeviceInUse)
	}
	if err != nil {
		return fmt.Errorf("fork volume %s: %w", p.cfg.Volume, err)
	}
	eng, err := p.Engine()
	if err != nil {
		return err
	}
	if err := p.outdateDevices(); err != nil {
		return err
	}
	return eng.ForkOnce(at, reason)
}
