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
// it is noted that no device is taken over. storeTurn must be held.
func (p *Pod) recoverStore(name string) (*journal.Store, error) {
	if err := p.outdateLeft(name); err != nil {
		return nil, fmt.Errorf("open store of volume %s: %w", p.cfg.Volume, err)
	}
	store, err := journal.Open(p.storeConfig(name))
	if err != nil {
		p.tailLost = errors.Is(err, journal.ErrTailLost)
		p.outdateLost(err) // at once: this process may not live until the next attempt
		return nil, fmt.Errorf("open store of volume %s: %w", p.cfg.Volume, err)
	}
	return store, nil
}

// outdateLeft is for a store that is about to be recovered without what users of the
// volume's device were told is written, and nobody has flushed. On another machine than the
// device's that is so: it is in the memory of that one. On the same machine it is so when the
// disk was attached anew since, unless the store was closed before that. What is not known of
// a disk that an engine was killed over counts as lost: it may have been detached in order.
// storeTurn must be held.
func (p *Pod) outdateLeft(name string) error {
	now := p.recordNow()
	lost := p.tailLost || now.leftBehind(p.cfg.Boot)
	if !lost && now.takenFrom(p.cfg.Boot, p.cfg.Disk) {
		closed, err := p.wasClosed(name)
		if err != nil {
			return err
		}
		if closed {
			return p.updateRecord(func(r *record) { r.Disk = p.cfg.Disk })
		}
		lost = true
		p.cfg.Log.Warn("the journal's disk was attached anew since an engine was killed: a device that waits for this one counts on writes that may be lost, and is taken away", "volume", p.cfg.Volume)
	}
	if !lost {
		return nil
	}
	if err := p.outdateDevices(); err != nil {
		return err
	}
	p.tailLost = false
	return nil
}

// wasClosed reports whether a store was closed, and nothing appended to it since.
func (p *Pod) wasClosed(name string) (bool, error) {
	store, err := journal.OpenReadOnly(p.storeConfig(name))
	if err != nil {
		return false, err
	}
	return store.Clean(), store.Close()
}
