package enginepod

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
)

// scrubbing is a scrub of the open store that somebody waits for. It is the upkeep's:
// the store is not closed before it has ended.
type scrubbing struct {
	stop context.CancelFunc

	// Guarded by Pod.mu.
	followers int
	repair    bool // a follower wants it
	step      engine.ScrubStep
	changed   chan struct{} // closed and replaced when step changes

	done   chan struct{} // closed when the rest is there
	result engine.Scrubbed
	err    error
}

// Scrub implements control.Volume.
func (p *Pod) Scrub(ctx context.Context, repair bool, told func(engine.ScrubStep)) (engine.Scrubbed, error) {
	s, err := p.followScrub(repair)
	if err != nil {
		return engine.Scrubbed{}, err
	}
	defer p.unfollowScrub(s)
	for {
		p.mu.Lock()
		step, changed := s.step, s.changed
		p.mu.Unlock()
		told(step)
		select {
		case <-s.done:
			return s.result, s.err
		case <-changed:
		case <-ctx.Done():
			return engine.Scrubbed{}, fmt.Errorf("follow the scrub of volume %s: %w", p.cfg.Volume, ctx.Err())
		}
	}
}

// followScrub begins a scrub, unless one is under way. Call unfollowScrub afterwards.
func (p *Pod) followScrub(repair bool) (*scrubbing, error) {
	eng, err := p.Engine()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// Under mu: whoever closes the store waits for what has joined its upkeep before.
	if p.ctx.Err() != nil || p.eng != eng {
		return nil, fmt.Errorf("scrub volume %s: %w", p.cfg.Volume, engine.ErrClosed)
	}
	if s := p.scrub; s != nil {
		s.followers++
		s.repair = s.repair || repair
		return s, nil
	}
	ctx, stop := context.WithCancel(p.upkeep.ctx)
	s := &scrubbing{stop: stop, followers: 1, repair: repair, changed: make(chan struct{}), done: make(chan struct{})}
	p.scrub = s
	peer, up := otherSite(p.record.Orders), p.upkeep
	up.joined.Go(func() {
		result, err := eng.Scrub(ctx, engine.Scrub{Clock: p.cfg.Clock, Peer: peer, Repair: func() bool { return p.wantsRepair(s) }, Told: func(step engine.ScrubStep) { p.tellScrub(s, step) }})
		if errors.Is(err, context.Canceled) && up.ctx.Err() != nil {
			err = fmt.Errorf("scrub volume %s: %w", p.cfg.Volume, engine.ErrClosed)
		}
		p.endScrub(s, result, err)
	})
	return s, nil
}

// otherSite is the site that has the other copy of a volume; empty: there is none.
func otherSite(o control.Orders) string {
	switch {
	case o.Role == control.Replica:
		return o.Source
	case o.Peer != nil:
		return o.Peer.Site
	}
	return ""
}

func (p *Pod) wantsRepair(s *scrubbing) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.repair
}

func (p *Pod) tellScrub(s *scrubbing, step engine.ScrubStep) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.step = step
	close(s.changed)
	s.changed = make(chan struct{})
}

// endScrub gives a scrub its result. What is known to be damaged may have changed.
func (p *Pod) endScrub(s *scrubbing, result engine.Scrubbed, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.stop()
	if p.scrub == s {
		p.scrub = nil
	}
	s.result, s.err = result, err
	close(s.done)
	p.notifyLocked()
}

// unfollowScrub leaves a scrub that nobody follows any more to its own time.
func (p *Pod) unfollowScrub(s *scrubbing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.followers--; s.followers > 0 {
		return
	}
	s.stop()
	if p.scrub == s {
		p.scrub = nil
	}
}
