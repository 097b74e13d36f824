package conformance

import (
	"context"
	"slices"
	"sync"
)

// Op is one kind of call on an engine.Device.
type Op int

// The calls that Fail and Block can choose.
const (
	OpRead Op = iota
	OpWrite
	OpDiscard
	OpWriteZeroes
	OpFlush
	OpBlockStatus
)

// Match chooses calls of one kind. The range matters because a kernel reads
// from a new block device on its own account (partition tables, probes by
// udev); a fault meant for the client's call must not hit those.
type Match struct {
	Op Op
	// Offset and Length, in bytes, choose calls that overlap the range;
	// Length 0 chooses all. OpFlush has no range and ignores them.
	Offset, Length int64
}

func (m Match) matches(op Op, off, length int64) bool {
	if m.Op != op {
		return false
	}
	return op == OpFlush || m.Length == 0 || (off < m.Offset+m.Length && m.Offset < off+length)
}

// Gate holds up calls of a Memory until it is released.
type Gate struct {
	match   Match
	entered chan struct{} // one value per call held up; buffered for all of them
	release chan struct{}
	once    sync.Once
}

// Entered yields one value for each call that the gate holds up, as it arrives.
func (g *Gate) Entered() <-chan struct{} { return g.entered }

// Release lets the held calls and all later ones pass. It may be called again.
func (g *Gate) Release() { g.once.Do(func() { close(g.release) }) }

type failure struct {
	match Match
	left  int // calls still to fail; negative means for ever
	err   error
}

// faults decides what happens to a call before it has any effect.
type faults struct {
	mu       sync.Mutex
	gates    []*gateUse
	failures []*failure
}

type gateUse struct {
	gate *Gate
	left int // calls still to hold up
}

// Block makes the next calls that match wait, at most calls of them, before
// they have any effect. A held call returns the context's error when its
// context ends first.
func (m *Memory) Block(match Match, calls int) *Gate {
	gate := &Gate{
		match:   match,
		entered: make(chan struct{}, calls),
		release: make(chan struct{}),
	}
	m.faults.mu.Lock()
	defer m.faults.mu.Unlock()
	m.faults.gates = append(m.faults.gates, &gateUse{gate: gate, left: calls})
	return gate
}

// Fail makes the next times calls that match return err and change nothing;
// all of them from now on when times is negative.
func (m *Memory) Fail(match Match, times int, err error) {
	m.faults.mu.Lock()
	defer m.faults.mu.Unlock()
	m.faults.failures = append(m.faults.failures, &failure{match: match, left: times, err: err})
}

// enter holds the call up while a gate wants that, then returns the error it
// is to fail with, if any.
func (f *faults) enter(ctx context.Context, op Op, off, length int64) error {
	if gate := f.takeGate(op, off, length); gate != nil {
		gate.entered <- struct{}{}
		select {
		case <-gate.release:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return f.takeFailure(op, off, length)
}

func (f *faults) takeGate(op Op, off, length int64) *Gate {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, use := range f.gates {
		if !use.gate.match.matches(op, off, length) {
			continue
		}
		if use.left--; use.left == 0 {
			f.gates = slices.Delete(f.gates, i, i+1)
		}
		return use.gate
	}
	return nil
}

func (f *faults) takeFailure(op Op, off, length int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, fail := range f.failures {
		if !fail.match.matches(op, off, length) {
			continue
		}
		if fail.left--; fail.left == 0 {
			f.failures = slices.Delete(f.failures, i, i+1)
		}
		return fail.err
	}
	return nil
}
