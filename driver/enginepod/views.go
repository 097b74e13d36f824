package enginepod

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// exportOf names a view's export.
func (p *Pod) exportOf(id string) string { return "view/" + id + "/" + p.cfg.Volume.String() }

// OpenView implements control.Volume. The same id again is no change.
func (p *Pod) OpenView(ctx context.Context, id string, at journal.Position) (string, error) {
	if p.cfg.Exports == nil {
		return "", errors.New("this engine shows no views: it has no NBD server")
	}
	if id == "" {
		return "", fmt.Errorf("open view of volume %s: it needs an id: %w", p.cfg.Volume, journal.ErrRange)
	}
	eng, err := p.Engine()
	if err != nil {
		return "", err
	}
	p.mu.Lock()
	_, open := p.views[id]
	p.mu.Unlock()
	if open {
		return p.exportOf(id), nil
	}
	view, err := eng.Store().View(at)
	if err != nil {
		return "", err
	}
	if err := p.cfg.Exports.Add(p.exportOf(id), engine.NewViewDevice(view), "view at "+at.String()); err != nil {
		return "", errors.Join(err, view.Close())
	}
	if err := p.registerView(id, view, eng); err != nil {
		return "", errors.Join(err, p.cfg.Exports.Remove(ctx, p.exportOf(id)), view.Close())
	}
	return p.exportOf(id), nil
}

// registerView enters a view of an engine's store, which from here on keeps an image from
// taking the store's place; replication.ErrInUse if one is about to, or has.
func (p *Pod) registerView(id string, view *journal.View, of *engine.Engine) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.replacing || p.eng != of {
		return fmt.Errorf("store of volume %s is being replaced: open the view again: %w", p.cfg.Volume, replication.ErrInUse)
	}
	p.views[id] = view
	return nil
}

// BeginCopy implements control.Volume. As a view does, a copy keeps an image from taking
// the store's place; replication.ErrInUse if one is about to, or has.
func (p *Pod) BeginCopy(of *engine.Engine) (end func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.replacing || p.eng != of {
		return nil, fmt.Errorf("store of volume %s is being replaced: copy it again: %w", p.cfg.Volume, replication.ErrInUse)
	}
	p.copies++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.copies--
	}, nil
}

// beginReplacing is checkUnviewed, and no view is opened, nor a copy begun, any more until the
// returned function is called.
func (p *Pod) beginReplacing() (end func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.unviewedLocked(); err != nil {
		return nil, err
	}
	p.replacing = true
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.replacing = false
	}, nil
}

// CloseView implements control.Volume.
func (p *Pod) CloseView(ctx context.Context, id string) error {
	p.mu.Lock()
	view, open := p.views[id]
	delete(p.views, id)
	p.mu.Unlock()
	if !open {
		return fmt.Errorf("view %s of volume %s: %w", id, p.cfg.Volume, control.ErrNoView)
	}
	return errors.Join(p.cfg.Exports.Remove(ctx, p.exportOf(id)), view.Close())
}

// checkUnviewed makes sure that no open view shows the store, and nobody copies it, which is
// then to be replaced by an image: what they read would be gone. replication.ErrInUse.
func (p *Pod) checkUnviewed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.unviewedLocked()
}

func (p *Pod) unviewedLocked() error {
	for id := range p.views {
		return fmt.Errorf("view %s on site %s shows volume %s: close it first: %w", id, p.cfg.Site, p.cfg.Volume, replication.ErrInUse)
	}
	if p.copies > 0 {
		return fmt.Errorf("volume %s is being copied to a clone on site %s, which comes to an end: %w", p.cfg.Volume, p.cfg.Site, replication.ErrInUse)
	}
	return nil
}

func (p *Pod) closeViews() error {
	p.mu.Lock()
	var ids []string
	for id := range p.views {
		ids = append(ids, id)
	}
	p.mu.Unlock()
	var errs []error
	for _, id := range ids {
		errs = append(errs, p.CloseView(context.Background(), id))
	}
	return errors.Join(errs...)
}
