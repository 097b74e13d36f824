package site

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
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

// PlanCommit implements groups.Forks.
func (s commits) PlanCommit(ctx context.Context, st group.State, name string) (groups.ForkCommit, error) {
	var out groups.ForkCommit
	f := s.forkOf(name)
	if f == nil {
		return out, fmt.Errorf("fork %q: %w", name, ErrNoFork)
	}
	r, members, err := s.openMembers(f)
	switch {
	case r.Group != st.Name:
		return out, fmt.Errorf("fork %q is one of group %s, and of group %s there is none of that name: %w", name, r.Group, st.Name, ErrNoFork)
	case err != nil:
		return out, err
	}
	out.Point = r.Point
	for id := range r.Point.Members {
		if !slices.Contains(st.Members, id) {
			return out, fmt.Errorf("%s was in group %s at the fork's point and is not any more, so what was written to it would be lost: %w",
				s.titleOf(id), st.Name, ErrForkClosed)
		}
	}
	if err := s.checkUnusedFork(r.Name, members); err != nil {
		return out, err
	}
	need := map[string]int64{}
	for id, m := range members {
		size, err := sizeOf(ctx, m)
		if err != nil {
			return out, err
		}
		out.PayloadBytes += size.PayloadBytes
		out.JournalBytes += size.JournalBytes
		need[s.journalRoot(id)] += size.JournalBytes + 2*s.segmentBytes()
	}
	return out, s.checkCommitRoom(need)
}

// titleOf is how messages name a volume to people.
func (s *Site) titleOf(id journal.VolumeID) string { return members{s}.Title(id) }

// openMembers returns the members of a fork that is open, and not being committed:
// ErrForkClosed.
func (s *Site) openMembers(f *fork) (forkRecord, map[journal.VolumeID]*forkMember, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case f.isCommitting():
		return f.record, nil, fmt.Errorf("fork %s is being made production: %w", f.record.Name, groups.ErrInUse)
	case f.record.State != ForkOpen:
		return f.record, nil, fmt.Errorf("fork %s is %s: %w", f.record.Name, f.record.State, ErrForkClosed)
	case f.members == nil && f.failed != nil:
		return f.record, nil, fmt.Errorf("fork %s: %w: %w", f.record.Name, ErrForkClosed, f.failed)
	case f.members == nil:
		return f.record, nil, fmt.Errorf("fork %s: %w", f.record.Name, ErrForkClosed)
	}
	return f.record, f.members, nil
}

// checkUnusedFork makes sure that nobody is connected to a fork: what a file system
// that is mounted has not written yet would be missing. groups.ErrInUse.
func (s *Site) checkUnusedFork(name string, members map[journal.VolumeID]*forkMember) error {
	if s.cfg.Exports == nil {
		return nil
	}
	for id := range members {
		if n := s.cfg.Exports.Clients(ForkExport(name, id)); n > 0 {
			return fmt.Errorf("%s of fork %s has %d connections: unmount it and disconnect first: %w", s.titleOf(id), name, n, groups.ErrInUse)
		}
	}
	return nil
}

func sizeOf(ctx context.Context, m *forkMember) (journal.DifferenceSize, error) {
	d, err := m.store.Difference()
	if err != nil {
		return journal.DifferenceSize{}, err
	}
	size, err := d.Size(ctx)
	return size, errors.Join(err, d.Close())
}

// journalRoot is the directory on whose file system a volume has its journal.
func (s *Site) journalRoot(id journal.VolumeID) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.volumes[id]; v != nil && v.record.OwnJournal {
		return s.cfg.JournalRoot
	}
	return s.cfg.Root
}

func (s *Site) segmentBytes() int64 {
	if s.cfg.SegmentBytes != 0 {
		return s.cfg.SegmentBytes
	}
	return journal.DefaultSegmentBytes
}

// checkCommitRoom makes sure that what a commit appends leaves the reserve of each file
// system alone: else the other forks would be given up for it. journal.ErrFull.
func (s *Site) checkCommitRoom(need map[string]int64) error {
	for dir, bytes := range need {
		room, reserve, err := s.aboveReserve(dir)
		if err != nil {
			return err
		}
		if room < bytes {
			return fmt.Errorf("%d bytes are needed on the file system of %s, where %d are available above the reserve of %d: %w",
				bytes, dir, max(0, room), reserve, journal.ErrFull)
		}
	}
	return nil
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

// Begins implements group.Filler.
func (s commits) Begins(op *group.Operation) group.Saving {
	return s.turn(op.Fill.Fork, ForkCommitting)
}

// Ends implements group.Filler.
func (s commits) Ends(op *group.Operation, completed bool) group.Saving {
	if completed {
		return s.turn(op.Fill.Fork, ForkDiscarding)
	}
	return s.turn(op.Fill.Fork, ForkOpen)
}

// turn has a fork in another state from the moment on at which a transaction commits.
func (s commits) turn(name string, state ForkState) group.Saving {
	f := s.forkOf(name)
	if f == nil {
		return group.Saving{Save: func(kv.Tx) error {
			if state == ForkCommitting {
				return fmt.Errorf("fork %q: %w", name, ErrNoFork)
			}
			return nil
		}}
	}
	s.mu.Lock()
	next := f.record
	s.mu.Unlock()
	next.State = state
	return group.Saving{Save: next.put, Saved: func() {
		s.setFork(f, func() { f.record, f.frozen = next, false })
	}}
}

// Fill implements group.Filler. It ends with the site, and not with its caller. Meanwhile
// nobody can have a device of the group exclusively, as who mounts it has.
func (s commits) Fill(_ context.Context, st group.State) error {
	ctx, fill := s.filling, st.Pending.Fill
	unlock, err := s.locks.Lock(ctx, forkKey(fill.Fork))
	if err != nil {
		return err
	}
	defer unlock()
	f := s.forkOf(fill.Fork)
	if f == nil {
		return fmt.Errorf("fork %q: %w: %w", fill.Fork, ErrNoFork, group.ErrUnfillable)
	}
	if f.members == nil {
		if err := s.openFork(f); err != nil {
			return s.unfillable(ctx, st, err)
		}
	}
	release, err := s.holdDevices(st.Members)
	if err != nil {
		return s.unfillable(ctx, st, err)
	}
	defer release()
	filling, ctx := errgroup.WithContext(ctx)
	filling.SetLimit(fillers)
	for _, id := range st.Members {
		filling.Go(func() error {
			if err := s.fillMember(ctx, st, f, id); err != nil {
				return fmt.Errorf("%s: %w", s.titleOf(id), err)
			}
			return nil
		})
	}
	return s.unfillable(s.filling, st, filling.Wait())
}

// fillers is how many members are filled at once.
const fillers = 4

// unfillable tells an error that would come again from one that ends with the site's
// next start, or when a member's store is reopened.
func (s commits) unfillable(ctx context.Context, st group.State, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	for _, id := range st.Members {
		eng, failed := s.engineOf(id)
		if failed == nil {
			failed = eng.Store().Err()
		}
		if failed != nil {
			return errors.Join(err, failed)
		}
	}
	return fmt.Errorf("%w: %w", group.ErrUnfillable, err)
}

// fillMember fills one member, unless that was done before, and ends that with the
// operation's checkpoint. One that joined after the fork's point gets this alone.
func (s commits) fillMember(ctx context.Context, st group.State, f *fork, id journal.VolumeID) error {
	eng, err := s.engineOf(id)
	if err != nil {
		return err
	}
	store, fill := eng.Store(), st.Pending.Fill
	if last := store.NewestCheckpoint(); last.Group == st.Name && last.Number == fill.Checkpoint && last.Time.Equal(fill.Time) {
		return nil
	}
	if m := f.members[id]; m != nil {
		d, err := m.store.Difference()
		if err != nil {
			return err
		}
		if err := errors.Join(store.Absorb(ctx, d, f.commit.did), d.Close()); err != nil {
			return err
		}
	}
	c := journal.Checkpoint{Number: fill.Checkpoint, Time: fill.Time, CheckpointInfo: journal.CheckpointInfo{Group: st.Name, Members: st.Members}}
	if _, err := store.Checkpoint(c); err != nil {
		return err
	}
	return store.Flush(ctx)
}

// Settle implements groups.Forks.
func (s commits) Settle(ctx context.Context, name string) {
	ctx = context.WithoutCancel(ctx)
	unlock, err := s.locks.Lock(ctx, forkKey(name))
	if err != nil {
		return
	}
	defer unlock()
	f := s.forkOf(name)
	if f == nil || s.isCommitting(f) {
		return
	}
	f.commit.begin(0)
	switch {
	case f.record.State == ForkDiscarding:
		err = s.removeFork(ctx, f, ForkDiscarding, "")
	case f.record.State == ForkOpen && f.members != nil:
		err = s.showFork(f)
	}
	if err != nil {
		s.cfg.Log.Warn("a fork whose commit is over; the next look at it goes on", "fork", name, "state", f.record.State, "error", err)
	}
}

// abandonCommits opens the forks of a group again whose commits are not to be completed:
// the site has been demoted. The group's key must be held, or nobody else be there yet.
func (s *Site) abandonCommits(ctx context.Context, name string) {
	st, _ := s.groups.State(name) // a group that is not there has nothing pending
	for _, fork := range s.forkNames() {
		f := s.forkOf(fork)
		if f == nil {
			continue
		}
		s.mu.Lock()
		r := f.record
		s.mu.Unlock()
		if r.Group != name || r.State != ForkCommitting || st.Pending != nil && st.Pending.Fill != nil && st.Pending.Fill.Fork == fork {
			continue
		}
		if err := s.abandonCommit(ctx, f); err != nil {
			s.cfg.Log.Warn("a fork whose commit is not to be completed is not open", "fork", fork, "error", err)
		}
	}
}

func (s *Site) abandonCommit(ctx context.Context, f *fork) error {
	unlock, err := s.locks.Lock(ctx, forkKey(f.record.Name))
	if err != nil {
		return err
	}
	defer unlock()
	next := f.record
	next.State = ForkOpen
	if err := s.saveFork(next); err != nil {
		return err
	}
	f.commit.begin(0)
	s.setFork(f, func() { f.record = next })
	if f.members == nil {
		return nil // the next look at the forks opens it
	}
	return s.showFork(f)
}
