package site

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/journal"
)

// A fork becomes production by an operation of its group, which is written down in the
// transaction that makes the fork's record say committing, and is over in the one that
// makes it say discarding, or open where nothing came of it. See driver/groups,
// CommitFork.

// commits implements groups.Forks.
type commits struct{ *Site }

var _ groups.Forks = commits{}

// commitProgress is how far a commit has come: bytes that were read or copied, of those
// that are to be.
type commitProgress struct{ done, total atomic.Int64 }

func (p *commitProgress) begin(total int64) {
	p.done.Store(0)
	p.total.Store(total)
}

func (p *commitProgress) did(bytes int64) { p.done.Add(bytes) }

func (p *commitProgress) figures() (done, total int64) {
	total = p.total.Load()
	return min(p.done.Load(), total), total
}

func (s *Site) isCommitting(f *fork) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.isCommitting()
}

// setFork changes what is known of a fork in memory.
func (s *Site) setFork(f *fork, change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// CommitFork makes a fork of a group production; see groups.CommitFork. ErrNoFork;
// ErrForkClosed, also where a volume of it has left the group.
func (s *Site) CommitFork(ctx context.Context, name, fork string, dryRun bool) (groups.ForkCommit, error) {
	done, err := s.groups.CommitFork(ctx, name, fork, dryRun)
	if err == nil && !dryRun {
		s.cfg.Log.Info("fork committed", "fork", fork, "group", name, "checkpoint", done.Rewind.To.Checkpoint, "bytes", done.PayloadBytes)
	}
	return done, err
}

// Freeze implements groups.Forks.
func (s commits) Freeze(ctx context.Context, name string) error {
	ctx, cancel := s.untilClosed(ctx)
	defer cancel()
	unlock, err := s.locks.Lock(ctx, forkKey(name))
	if err != nil {
		return err
	}
	defer unlock()
	f := s.forkOf(name)
	if f == nil {
		return fmt.Errorf("fork %q: %w", name, ErrNoFork)
	}
	_, members, err := s.openMembers(f)
	if err == nil {
		err = s.checkUnusedFork(name, members)
	}
	if err != nil {
		return err
	}
	s.setFork(f, func() { f.frozen = true })
	s.hideFork(f)
	if err := readFork(ctx, f, members); err != nil {
		s.thaw(f)
		return fmt.Errorf("read fork %s: %w", name, err)
	}
	return nil
}

// untilClosed ends a context with the site, too.
func (s *Site) untilClosed(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.filling, cancel)
	return ctx, func() { stop(); cancel() }
}

// frozenPin is the pin in an overlay that is being committed. After a crash it keeps
// recovery from taking damage at the end of what was written for a tail that was never
// flushed.
const frozenPin = "commit"

func (m *forkMember) freeze(ctx context.Context) error {
	err := m.store.Flush(ctx)
	if err == nil {
		err = m.thaw() // of an earlier attempt
	}
	if err == nil {
		err = m.store.Pin(frozenPin, m.store.Tip())
	}
	return err
}

// thaw ends what freeze began; no change if it did not.
func (m *forkMember) thaw() error {
	if _, frozen := m.store.Pins()[frozenPin]; !frozen {
		return nil
	}
	return m.store.Unpin(frozenPin)
}

// readFork makes all that a fork holds durable, and finds out whether it can be read.
func readFork(ctx context.Context, f *fork, members map[journal.VolumeID]*forkMember) error {
	var total int64
	for _, m := range members {
		if err := m.freeze(ctx); err != nil {
			return err
		}
		size, err := sizeOf(ctx, m)
		if err != nil {
			return err
		}
		total += size.PayloadBytes
	}
	f.commit.begin(2 * total)
	for _, m := range members {
		d, err := m.store.Difference()
		if err != nil {
			return err
		}
		if err := errors.Join(d.Verify(ctx, f.commit.did), d.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Thaw implements groups.Forks.
func (s commits) Thaw(ctx context.Context, name string) {
	unlock, err := s.locks.Lock(ctx, forkKey(name))
	if err != nil {
		return
	}
	defer unlock()
	if f := s.forkOf(name); f != nil && f.frozen {
		s.thaw(f)
	}
}

// thaw is Thaw with the fork's key held.
func (s *Site) thaw(f *fork) {
	f.commit.begin(0)
	s.setFork(f, func() { f.frozen = false })
	if err := s.showFork(f); err != nil {
		s.cfg.Log.Warn("a fork is not shown again; the next look at it tries to", "fork", f.record.Name, "error", err)
	}
}
