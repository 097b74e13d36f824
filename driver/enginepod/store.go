package enginepod

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/journal"
)

// upkeep is what runs for an open store.
type upkeep struct {
	ctx    context.Context // ends with the store's use
	stop   context.CancelFunc
	joined sync.WaitGroup
}

// ensureEngine opens the store, which is made if need be. The turn must be
// held.
func (p *Pod) ensureEngine(ctx context.Context, o control.Orders) (*engine.Engine, error) {
	p.storeTurn.Lock()
	defer p.storeTurn.Unlock()
	rec := p.recordNow()
	if rec.Store == "" {
		if o.SizeBytes == 0 {
			return nil, fmt.Errorf("volume %s is to be primary, and has neither a store nor a size: %w", o.Volume, control.ErrNoStore)
		}
		rec.Generation++
		rec.Store = storeDir(rec.Generation)
		if err := p.makeStore(ctx, o, rec.Store); err != nil {
			return nil, fmt.Errorf("make store of volume %s: %w", o.Volume, err)
		}
		// Until the record names it the store is nobody's, and the next attempt
		// finds it complete or makes it anew.
		err := p.updateRecord(func(r *record) { r.Generation, r.Store = rec.Generation, rec.Store })
		if err != nil {
			return nil, err
		}
	}
	return p.openEngine(rec.Store)
}

// makeStore makes a store with its first content. One that an earlier attempt
// completed is kept.
func (p *Pod) makeStore(ctx context.Context, o control.Orders, name string) error {
	if err := p.makeStoreDir(name); err != nil {
		return err
	}
	im, err := journal.NewImport(p.storeConfig(name), journal.Spec{Volume: o.Volume, SizeBytes: o.SizeBytes}, journal.Position{}, nil)
	if errors.Is(err, journal.ErrExists) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.Fill != nil {
		p.setFilling(true)
		err := p.fill(ctx, im, *o.Fill, o.SizeBytes)
		p.setFilling(false)
		if err != nil {
			return errors.Join(err, im.Abort())
		}
	}
	return im.Commit()
}

// setFilling shows that the first content is being copied.
func (p *Pod) setFilling(filling bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.filling = filling
	p.notifyLocked()
}

// fill copies another engine's image into an import.
func (p *Pod) fill(ctx context.Context, im *journal.Import, from control.Fill, sizeBytes int64) error {
	if p.cfg.DialEngine == nil {
		return errors.New("fill store: this engine cannot reach others")
	}
	conn, err := p.cfg.DialEngine(from.Address)
	if err != nil {
		return err
	}
	begin := func(size int64) error {
		if size > sizeBytes {
			return fmt.Errorf("image of %d bytes does not fit a volume of %d: %w", size, sizeBytes, journal.ErrRange)
		}
		return nil
	}
	err = control.NewClient(from.Volume, conn).ReadImage(ctx, from.Pin, begin, im.WriteAt)
	return errors.Join(err, conn.Close())
}

// openStore opens the store if there is one.
func (p *Pod) openStore() error {
	p.storeTurn.Lock()
	defer p.storeTurn.Unlock()
	store := p.recordNow().Store
	if store == "" {
		return nil
	}
	_, err := p.openEngine(store)
	return err
}

// openEngine opens the store and begins to maintain it, unless it is open. It
// admits no changes yet. storeTurn must be held.
func (p *Pod) openEngine(name string) (*engine.Engine, error) {
	p.mu.Lock()
	eng, orders := p.eng, p.record.Orders
	p.mu.Unlock()
	if eng != nil {
		return eng, nil
	}
	store, err := p.recoverStore(name)
	if err != nil {
		return nil, err
	}
	if store.Volume() != p.cfg.Volume {
		return nil, errors.Join(fmt.Errorf("open store of volume %s: it is volume %s: %w", p.cfg.Volume, store.Volume(), journal.ErrForeign), store.Close())
	}
	applyRetention(store, orders)
	if orders.Role == control.Replica || !orders.Writable {
		p.keepAll(store)
	}
	eng = engine.New(store)
	eng.SetReadOnly(true)
	ctx, stop := context.WithCancel(p.ctx)
	up := &upkeep{ctx: ctx, stop: stop}
	up.joined.Go(func() { p.maintain(ctx, store) })
	up.joined.Go(func() { p.observe(ctx, store) })
	shown := &engine.Guarded{Device: eng, Blocked: p.mayBeAttached}
	if p.cfg.Exports != nil {
		if err := p.cfg.Exports.Add(p.cfg.Volume.String(), shown, "live volume"); err != nil {
			p.cfg.Log.Warn("volume is not shown to tools", "error", err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.eng, p.upkeep, p.shown = eng, up, shown
	p.notifyLocked()
	return eng, nil
}

// maintain runs the journal's upkeep. A journal that failed ends the process.
func (p *Pod) maintain(ctx context.Context, store *journal.Store) {
	if err := store.Run(ctx); err != nil && ctx.Err() == nil {
		p.outdateLost(err)
		p.die(fmt.Errorf("maintain journal of volume %s: %w", p.cfg.Volume, err))
	}
}

// observePause is the least time between two looks at a store that is written
// to.
const observePause = 250 * time.Millisecond

// observe tells of durable progress, and of a journal that failed.
func (p *Pod) observe(ctx context.Context, store *journal.Store) {
	known := store.Durable()
	for {
		var err error
		known, err = store.WaitDurable(ctx, known)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.outdateLost(err)
			p.die(fmt.Errorf("journal of volume %s: %w", p.cfg.Volume, err))
			return
		}
		p.notify()
		pause := p.cfg.Clock.NewTimer(observePause)
		select {
		case <-pause.C():
		case <-ctx.Done():
			pause.Stop()
			return
		}
	}
}

// settle does what closing the store takes and can be done while the device is
// still served: once it is not, I/O waits. p.ctx has ended.
func (p *Pod) settle() {
	p.mu.Lock()
	eng, up := p.eng, p.upkeep
	p.mu.Unlock()
	if eng == nil {
		return
	}
	up.joined.Wait()
	if err := eng.Flush(context.Background()); err != nil {
		p.cfg.Log.Warn("flush before the end failed", "volume", p.cfg.Volume, "error", err)
		eng.Store().SyncTail() // what is lost with it is known while the device is there
	}
}

// closeEngine stops the upkeep and closes the store. Nobody may use the engine
// any more. storeTurn must be held, or nobody else be there any more.
func (p *Pod) closeEngine() error {
	p.mu.Lock()
	eng, up := p.eng, p.upkeep
	p.eng, p.upkeep = nil, nil
	p.mu.Unlock()
	if eng == nil {
		return nil
	}
	if p.cfg.Exports != nil {
		if err := p.cfg.Exports.Remove(context.Background(), p.cfg.Volume.String()); err != nil {
			p.cfg.Log.Warn("ending the volume's export failed", "error", err)
		}
	}
	up.stop()
	up.joined.Wait()
	if err := eng.Store().Close(); err != nil && !errors.Is(err, journal.ErrPoisoned) {
		return err
	}
	return nil
}

// applyRetention applies a window and a budget.
func applyRetention(store *journal.Store, o control.Orders) {
	bytes := o.JournalBytes
	if bytes == 0 {
		bytes = journal.DefaultBudget(store.SizeBytes())
	}
	history, err := journal.ParseHistory(o.History)
	if err != nil { // it was checked where it came from; without one everything is kept
		history = nil
	}
	store.SetRetention(journal.Retention{JournalBytes: bytes, Window: o.Window, History: history})
}
