package enginepod

import (
	"time"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/journal"
)

// The members of a replica are fed apart from each other. One that is ahead of the
// others keeps the newest recovery point that all of them have, as long as there is room: it
// is what the group can be failed over to. Only the controller knows which one that is.

// keepUntold is how long a replica's member keeps all that it has where nobody tells it
// which point that is.
const keepUntold = time.Hour

// keepAll has the store of a replica, or one that is opened while its writes are stopped, keep all
// that it has until it is told what to, or writes are admitted: a group whose operation was
// interrupted may be about to return to what it has oldest, and it holds that no more. Once,
// when it was opened or has become a replica's. What was told, or given up for want of
// room, since then stays as it is, however often orders are repeated.
func (p *Pod) keepAll(store *journal.Store) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keeps != store {
		p.keeps = store
		store.KeepPoint(store.Horizon(), keepUntold)
	}
}

// keepNothing has the store of a primary keep nothing: its members make every point
// together.
func (p *Pod) keepNothing(store *journal.Store) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keeps = nil
	store.KeepPoint(journal.Position{}, 0)
}

// KeepPoint implements control.Volume.
func (p *Pod) KeepPoint(at journal.Position, d time.Duration) error {
	eng, err := p.Engine()
	if err != nil {
		return err
	}
	p.mu.Lock() // so that a member that becomes a primary's lets go after this
	defer p.mu.Unlock()
	if p.record.Orders.Role != control.Replica {
		return nil
	}
	if at == (journal.Position{}) {
		at = eng.Store().KeptPoint()
	}
	eng.Store().KeepPoint(at, d)
	return nil
}
