package replication

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/lockstep-csi/lockstep/journal"
)

// gate decides who may append to a group's replica stores. Every stream holds
// a pass for its volume and shows it before each append; closing the gate
// revokes the passes and waits until no append is in progress. Whatever a
// revoked stream still has in its buffers is lost, which is safe: nothing of
// it was acknowledged.
//
// All methods may be called concurrently.
type gate struct {
	mu     sync.Mutex
	groups map[string]*groupGate
}

// groupGate is one group's part of a gate.
type groupGate struct {
	// turn holds a token while nobody changes the group's standing.
	turn   chan struct{}
	closed bool                       // guarded by gate.mu
	passes map[journal.VolumeID]*pass // guarded by gate.mu
}

// pass is the right of one stream to append to one volume.
type pass struct {
	gate    *gate
	group   string
	volume  journal.VolumeID
	revoked chan struct{} // closed when the pass ends
	settled chan struct{} // closed when the pass ended and no append is left
	cause   error         // guarded by gate.mu; why it ended
	busy    bool          // guarded by gate.mu; an append is in progress
}

func newGate() *gate { return &gate{groups: make(map[string]*groupGate)} }

// of returns the group's part; gate.mu is held.
func (g *gate) of(group string) *groupGate {
	gg := g.groups[group]
	if gg == nil {
		gg = &groupGate{turn: make(chan struct{}, 1), passes: make(map[journal.VolumeID]*pass)}
		gg.turn <- struct{}{}
		g.groups[group] = gg
	}
	return gg
}

// take waits for the group's turn: between take and the returned function
// nobody else changes the group's standing. Streams go on.
func (g *gate) take(ctx context.Context, group string) (giveBack func(), err error) {
	g.mu.Lock()
	gg := g.of(group)
	g.mu.Unlock()
	select {
	case <-gg.turn:
		return func() { gg.turn <- struct{}{} }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for group %s: %w", group, ctx.Err())
	}
}

// close revokes all passes of the group and returns when no append is in
// progress; no pass is issued until open. The caller holds the turn. On an
// error the gate is open again, the passes stay revoked.
func (g *gate) close(ctx context.Context, group string, cause error) (open func(), err error) {
	g.mu.Lock()
	gg := g.of(group)
	gg.closed = true
	var revoked []*pass
	for _, p := range gg.passes {
		p.revoke(cause)
		revoked = append(revoked, p)
	}
	g.mu.Unlock()
	open = func() {
		g.mu.Lock()
		gg.closed = false
		g.mu.Unlock()
	}
	for _, p := range revoked {
		if err := p.wait(ctx); err != nil {
			open()
			return nil, err
		}
	}
	return open, nil
}

// issue gives a stream the pass for a volume. An older stream of the volume
// loses its pass first: it is most likely the other end of a connection that
// died unnoticed.
func (g *gate) issue(ctx context.Context, group string, volume journal.VolumeID) (*pass, error) {
	p := &pass{gate: g, group: group, volume: volume, revoked: make(chan struct{}), settled: make(chan struct{})}
	for {
		g.mu.Lock()
		gg := g.of(group)
		if gg.closed {
			g.mu.Unlock()
			return nil, ErrFenced
		}
		old := gg.passes[volume]
		if old == nil {
			gg.passes[volume] = p
			g.mu.Unlock()
			return p, nil
		}
		old.revoke(ErrReplaced)
		g.mu.Unlock()
		if err := old.wait(ctx); err != nil {
			return nil, err
		}
		old.leave()
	}
}

// evict revokes the passes that streams of other groups have for a group's members, and
// those of this group for volumes that are none, and returns when none of these appends.
func (g *gate) evict(ctx context.Context, group string, members []journal.VolumeID, cause error) error {
	g.mu.Lock()
	var revoked []*pass
	for name, gg := range g.groups {
		for volume, p := range gg.passes {
			if (name == group) != slices.Contains(members, volume) {
				p.revoke(cause)
				revoked = append(revoked, p)
			}
		}
	}
	g.mu.Unlock()
	for _, p := range revoked {
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// revokeAll ends every pass of every group.
func (g *gate) revokeAll(cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, gg := range g.groups {
		for _, p := range gg.passes {
			p.revoke(cause)
		}
	}
}

// revoke ends the pass; gate.mu is held.
func (p *pass) revoke(cause error) {
	if p.cause != nil {
		return
	}
	p.cause = cause
	close(p.revoked)
	if !p.busy {
		close(p.settled)
	}
}

// wait returns when a revoked pass has no append in progress.
func (p *pass) wait(ctx context.Context) error {
	select {
	case <-p.settled:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for an append to volume %s: %w", p.volume, ctx.Err())
	}
}

// enter begins an append; the error says why the pass is no longer valid.
func (p *pass) enter() error {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	if p.cause != nil {
		return p.cause
	}
	p.busy = true
	return nil
}

// exit ends the append that enter began.
func (p *pass) exit() {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	p.busy = false
	if p.cause != nil {
		close(p.settled)
	}
}

// leave gives the pass back; it may be called again.
func (p *pass) leave() {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	p.revoke(ErrReplaced)
	if gg := p.gate.of(p.group); gg.passes[p.volume] == p {
		delete(gg.passes, p.volume)
	}
}
