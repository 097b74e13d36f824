package enginepod

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

// A device outlives its engine, with all that its users were told is written. As long as
// the next engine has that, too, nobody notices. After a sync of the journal that failed it
// may not (journal.ErrTailLost), and its flushes would succeed all the same: what was
// acknowledged and flushed would be gone, and nobody told. So such a device is taken
// away from its users, who get I/O errors, as of a disk that failed.

// abandonTimeout bounds the wait for the node to take a device away.
const abandonTimeout = 10 * time.Second

// outdateLost has the next engine take no device over, as soon as the journal has lost
// what the present one's users count on. It does not wait for the turn: the process may
// be killed at any moment. What carries out orders meanwhile may undo it, so that
// Close does it again.
func (p *Pod) outdateLost(failure error) {
	if !errors.Is(failure, journal.ErrTailLost) {
		return
	}
	if err := p.outdateDevices(); err != nil {
		p.cfg.Log.Error("it cannot be noted that no engine may take the device over", "volume", p.cfg.Volume, "error", err)
	}
}

// failureOfStore returns what tells what the open store has failed with, also when that is
// closed.
func (p *Pod) failureOfStore() func() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.eng == nil {
		return func() error { return nil }
	}
	return p.eng.Store().Err
}

// forsakeDevice takes the device away from its users where the journal has lost what they
// count on. Either of the two that it does is enough: that the device is gone, and that
// the next engine knows of none. Nobody else may be there any more.
func (p *Pod) forsakeDevice() error {
	p.mu.Lock()
	eng, device := p.eng, p.device
	p.mu.Unlock()
	if eng == nil || !errors.Is(eng.Store().Err(), journal.ErrTailLost) {
		return nil
	}
	outdated := p.outdateDevices()
	if device == nil {
		return outdated
	}
	p.cfg.Log.Error("the journal has failed with writes that were acknowledged: the device is taken away, who uses it gets an I/O error", "volume", p.cfg.Volume, "device", device.Path())
	ctx, cancel := context.WithTimeout(context.Background(), abandonTimeout)
	defer cancel()
	abandoned := device.Abandon(ctx)
	if abandoned == nil {
		p.forgetDevice()
		return nil
	}
	if outdated == nil {
		p.cfg.Log.Warn("the device waits for the next engine, which has it taken away", "volume", p.cfg.Volume, "error", abandoned)
		return nil
	}
	return fmt.Errorf("take the device of volume %s away: %w", p.cfg.Volume, errors.Join(abandoned, outdated))
}

// recoverStore opens a store. Where that finds out that the engine before has lost what users
// of its device count on, the next attempt, which finds nothing of it, waits until
// it is noted that no device is taken over. On another machine than the device's that is noted
// before: what its users were told is written, and nobody has flushed, is in the memory of that
// machine, and gone once the store is recovered without. storeTurn must be held.
func (p *Pod) recoverStore(name string) (*journal.Store, error) {
	if now := p.recordNow(); p.tailLost || now.leftBehind(p.cfg.Boot) {
		if err := p.outdateDevices(); err != nil {
			return nil, fmt.Errorf("open store of volume %s: %w", p.cfg.Volume, err)
		}
		p.tailLost = false
	}
	store, err := journal.Open(p.storeConfig(name))
	if err != nil {
		p.tailLost = errors.Is(err, journal.ErrTailLost)
		p.outdateLost(err) // at once: this process may not live until the next attempt
		return nil, fmt.Errorf("open store of volume %s: %w", p.cfg.Volume, err)
	}
	return store, nil
}
