package enginepod

import "context"

// Fence implements control.Volume.
func (p *Pod) Fence(ctx context.Context, term uint64) error {
	if err := p.take(ctx); err != nil {
		return err
	}
	defer func() { p.turn <- struct{}{} }()
	p.mu.Lock()
	next := p.record
	p.mu.Unlock()
	if term <= next.FencedBelow {
		return nil
	}
	next.FencedBelow = term
	return p.setRecord(next)
}

// Lift implements control.Volume.
func (p *Pod) Lift(ctx context.Context) error {
	if err := p.take(ctx); err != nil {
		return err
	}
	defer func() { p.turn <- struct{}{} }()
	p.mu.Lock()
	next := p.record
	p.mu.Unlock()
	if next.FencedBelow <= next.Orders.Term {
		return nil
	}
	next.FencedBelow = next.Orders.Term
	return p.setRecord(next)
}
