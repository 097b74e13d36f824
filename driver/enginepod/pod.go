package enginepod

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// Pod is one engine process. It implements control.Volume; its methods may be
// called concurrently.
type Pod struct {
	cfg         Config
	db          kv.DB
	incarnation string
	ctx         context.Context // of what outlives a call; ends with Close
	stop        context.CancelFunc
	working     sync.WaitGroup

	// turn holds one token: its holder carries out orders.
	turn chan struct{}
	// recordTurn is held over a change of the record, storeTurn over opening,
	// closing and replacing the store. They are taken in this order, behind
	// the turn; a stream of replication takes them without it.
	storeTurn  sync.Mutex
	recordTurn sync.Mutex
	tailLost   bool // guarded by storeTurn; see recoverStore
	// streams takes what a peer sends; nil: nothing is taken.
	streams *replication.StreamServer
	sending *sending // what runs for a primary's peer; changes with the turn held

	mu       sync.Mutex
	record   record                   // guarded by mu; changes with the turn held
	done     control.Orders           // guarded by mu; carried out last
	keeps    *journal.Store           // guarded by mu; see keepAll
	failure  error                    // guarded by mu; why orders are not carried out
	filling  bool                     // guarded by mu
	resuming bool                     // guarded by mu; resume runs
	leaving  bool                     // guarded by mu; told to end, and waits for a successor
	eng      *engine.Engine           // guarded by mu; nil while no store is open
	upkeep   *upkeep                  // of eng; changes with the turn held
	shown    *engine.Guarded          // guarded by mu; eng, or the one before it, as tools see it
	device   Device                   // guarded by mu; nil while detached
	attached *control.Attach          // guarded by mu; how device looks
	unwatch  context.CancelFunc       // guarded by mu; of device's watcher
	views    map[string]*journal.View // guarded by mu
	copies   int                      // guarded by mu; readers of the store's image, for clones
	// replacing: an image is taking the store's place, and no view is opened. Guarded by mu.
	replacing bool
	counted   pointCount    // guarded by mu; the last one
	scrub     *scrubbing    // guarded by mu; nil: nobody waits for one
	changed   chan struct{} // guarded by mu; closed and replaced at each change
	fatal     chan error    // capacity 1; what ends the process
	unnoted   atomic.Uint64 // the number of a controller that could not be noted
}

var _ control.Volume = (*Pod)(nil)

// The pause between two attempts to carry out orders that were found at the
// start, or have failed: startRetryMin at first, since the holder may be about to notice that
// the engine before has ended, then twice as long each time up to startRetry.
const (
	startRetryMin = 10 * time.Millisecond
	startRetry    = time.Second
)

// Open opens a backing volume and begins to carry out the orders that it
// holds, if any. Call Close at the end.
func Open(cfg Config) (*Pod, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	db, rec, err := openDatabase(cfg.FS, cfg.Dir, cfg.Volume)
	if err != nil {
		return nil, err
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, errors.Join(fmt.Errorf("draw incarnation: %w", err), db.Close())
	}
	p := &Pod{cfg: cfg, db: db, record: rec, incarnation: hex.EncodeToString(b[:]), turn: make(chan struct{}, 1),
		views: map[string]*journal.View{}, changed: make(chan struct{}), fatal: make(chan error, 1)}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.turn <- struct{}{}
	p.removeStrayStores()
	if err := p.openStreams(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if rec.Orders.Term != 0 {
		p.resuming = true
		p.working.Go(func() { p.resume(0) })
	}
	return p, nil
}

// resume carries out the newest orders, of an earlier process or of which an attempt has
// failed, until that succeeds. The first attempt is made after pause.
func (p *Pod) resume(pause time.Duration) {
	for ; ; pause = min(max(2*pause, startRetryMin), startRetry) {
		p.pause(pause)
		<-p.turn
		over := p.ctx.Err() != nil || p.isDone()
		if !over {
			o := p.recordNow().Orders
			if err := p.carryOut(p.ctx, o); err == nil {
				over = true
			} else if p.ctx.Err() == nil {
				p.cfg.Log.Warn("orders are not carried out yet", "volume", p.cfg.Volume, "error", err)
			}
		}
		if over { // with the turn: whoever fails next begins another one
			p.setResuming(false)
		}
		p.turn <- struct{}{}
		if over {
			return
		}
	}
}

// pause waits, but no longer than the pod lasts.
func (p *Pod) pause(d time.Duration) {
	if d == 0 {
		return
	}
	timer := p.cfg.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
	case <-p.ctx.Done():
	}
}

// isDone reports whether the newest orders are carried out.
func (p *Pod) isDone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failure == nil && reflect.DeepEqual(p.done, p.record.Orders)
}

// tryOn has orders that have just failed be tried again, unless they are already: who gave
// them may not do it again, and others wait for what they say. The turn must be held.
func (p *Pod) tryOn() {
	if p.setResuming(true) {
		p.working.Go(func() { p.resume(startRetryMin) })
	}
}

// setResuming reports whether that is a change.
func (p *Pod) setResuming(resuming bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := p.resuming != resuming
	p.resuming = resuming
	return changed
}

// Fatal has the error that this process has to end with: what is durable is
// not known any more, and only a new process finds out.
func (p *Pod) Fatal() <-chan error { return p.fatal }

func (p *Pod) die(err error) {
	select {
	case p.fatal <- err:
	default: // the first counts
	}
}

// take waits for the turn.
func (p *Pod) take(ctx context.Context) error {
	select {
	case <-p.turn:
		return nil
	case <-p.ctx.Done():
		return engine.ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("wait for earlier orders of volume %s: %w", p.cfg.Volume, ctx.Err())
	}
}

// Order implements control.Volume.
func (p *Pod) Order(ctx context.Context, o control.Orders) error {
	if err := p.checkOrders(o); err != nil {
		return err
	}
	if err := p.take(ctx); err != nil {
		return err
	}
	if err := p.accept(ctx, o); err != nil {
		p.turn <- struct{}{}
		return err
	}
	result := make(chan error, 1)
	p.working.Go(func() {
		defer func() { p.turn <- struct{}{} }()
		err := p.carryOut(p.ctx, o)
		if err != nil {
			p.tryOn()
		}
		result <- err
	})
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("carry out orders of volume %s: %w", p.cfg.Volume, ctx.Err())
	}
}

// checkOrders refuses orders for another volume.
func (p *Pod) checkOrders(o control.Orders) error {
	if o.Volume != p.cfg.Volume {
		return fmt.Errorf("orders are for volume %s, this is %s: %w", o.Volume, p.cfg.Volume, journal.ErrForeign)
	}
	return nil
}

// checkNewer refuses orders that are older than those in force. The turn must be
// held.
func (p *Pod) checkNewer(o control.Orders) error {
	now := p.recordNow()
	if o.Compare(&now.Orders) < 0 || o.Term < now.FencedBelow {
		return fmt.Errorf("orders (%d, %d) of volume %s, (%d, %d) in force, fenced below %d: %w", o.Term, o.Revision, o.Volume,
			now.Orders.Term, now.Orders.Revision, now.FencedBelow, control.ErrStaleOrder)
	}
	return nil
}

// accept makes orders durable. Who may send changes with them, so that no
// append of a stream is in progress meanwhile.
func (p *Pod) accept(ctx context.Context, o control.Orders) error {
	if err := p.checkNewer(o); err != nil {
		return err
	}
	now := p.recordNow()
	if reflect.DeepEqual(now.Orders, o) {
		return nil // and durable, which costs two syncs: orders are repeated often
	}
	save := func(context.Context) error { return p.updateRecord(func(r *record) { r.Orders = o }) }
	if p.streams == nil || sameStanding(now.Orders, o) {
		return save(ctx)
	}
	return p.streams.Change(ctx, save)
}

func (p *Pod) recordNow() record {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.record
}

// updateRecord changes the record, durably. After a failure of which it is unknown
// what it left on disk no further change is taken, and the process has to end: the
// next one reads which of the two records holds.
func (p *Pod) updateRecord(edit func(*record)) error {
	p.recordTurn.Lock()
	defer p.recordTurn.Unlock()
	next := p.recordNow()
	edit(&next)
	if err := next.save(p.db); err != nil {
		if p.recordDoubt() != nil {
			p.die(err)
		}
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.record = next
	return nil
}

// recordDoubt is an error while it is unknown which record is on disk; see updateRecord.
func (p *Pod) recordDoubt() error {
	if err := kv.Settled(p.db); err != nil {
		return fmt.Errorf("find out what is durable of volume %s: %w", p.cfg.Volume, err)
	}
	return nil
}

// carryOut does what orders say. The turn must be held. Each step finds out
// what is left to do, so that it may be repeated.
func (p *Pod) carryOut(ctx context.Context, o control.Orders) error {
	err := p.follow(ctx, o)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failure = err
	if err == nil {
		p.done = o
	}
	p.notifyLocked()
	return err
}

func (p *Pod) follow(ctx context.Context, o control.Orders) error {
	if o.Role == control.Replica {
		return p.followReplica(ctx)
	}
	eng, err := p.ensureEngine(ctx, o)
	if err != nil {
		return err
	}
	if o.Writable {
		p.keepNothing(eng.Store())
	}
	if err := p.sendTo(o); err != nil {
		return err
	}
	if !o.Writable {
		if err := eng.StopChanges(ctx); err != nil {
			return err
		}
	}
	applyRetention(eng.Store(), o)
	if o.Writable {
		eng.SetReadOnly(false)
	}
	// It grows by a change like any other: one that was ordered while the group admits
	// none comes with the next orders that do.
	if o.Writable && eng.SizeBytes() < o.SizeBytes {
		if err := eng.Resize(ctx, o.SizeBytes); err != nil {
			return err
		}
	}
	switch {
	case o.Attach == nil:
		return p.detach(ctx)
	case !o.Writable && !p.isAttached():
		return nil // whoever finds a device writes to it: it comes when writes are admitted
	}
	return p.attach(ctx, eng, *o.Attach)
}

// followReplica stops writes and takes the device away.
func (p *Pod) followReplica(ctx context.Context) error {
	p.stopSending()
	if err := p.openStore(); err != nil {
		return err
	}
	if eng, err := p.Engine(); err == nil {
		if err := eng.StopChanges(ctx); err != nil {
			return err
		}
		p.keepAll(eng.Store())
	}
	return p.detach(ctx)
}

// Engine implements control.Volume.
func (p *Pod) Engine() (*engine.Engine, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.eng != nil:
		return p.eng, nil
	case p.failure != nil:
		return nil, p.failure
	}
	return nil, fmt.Errorf("volume %s: %w", p.cfg.Volume, control.ErrNoStore)
}

// notifyLocked wakes who watches the state. mu is held.
func (p *Pod) notifyLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Pod) notify() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notifyLocked()
}

// Close stops serving. An attached device stays with the holder, where I/O
// waits for the next engine; but see forsakeDevice.
func (p *Pod) Close() error {
	p.stop()
	p.working.Wait()
	p.stopSending()
	var errs []error
	if p.streams != nil {
		errs = append(errs, p.streams.Close())
	}
	p.settle()
	failure := p.failureOfStore()
	errs = append(errs, p.forsakeDevice(), p.release(), p.closeViews(), p.closeEngine())
	p.outdateLost(failure()) // what failed while the device was released, or after that
	errs = append(errs, p.db.Close())
	return errors.Join(errs...)
}
