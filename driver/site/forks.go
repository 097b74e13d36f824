package site

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// A writable fork shows every member of a group as it was at a recovery point, to
// be written to, while the group goes on. See docs/decisions/0016-writable-forks.md.

const (
	forksDir = "forks"

	// MinForkQuota is what a fork needs for each member.
	MinForkQuota = 16 << 20
	// MaxForks bounds those of a site that are not removed yet: each member of
	// one is an open store.
	MaxForks = 64
	// DefaultForkAge and MaxForkAge are how old a fork becomes unless it was
	// asked to, and at most.
	DefaultForkAge = 24 * time.Hour
	MaxForkAge     = 30 * 24 * time.Hour
	minForkAge     = time.Minute
	// forkRecordAge is how long one that was given up is listed.
	forkRecordAge = 7 * 24 * time.Hour
)

var forkName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// fork is a fork of the site. All but trouble and commit is guarded by Site.mu
// and changes only under the fork's key in Site.locks; record also in the transaction
// that begins or ends its commit, when nobody else changes it.
type fork struct {
	record  forkRecord
	members map[journal.VolumeID]*forkMember // nil while it is not open
	failed  error                            // why it is not open, though it should be
	trouble string                           // what was last logged of it; under its key
	space   *forkSpace                       // nil while it is not open
	shown   bool                             // its exports are there
	frozen  bool                             // it is read, to be committed: nobody uses or ends it
	commit  commitProgress
}

// holds reports whether a fork needs a volume's store.
func (f *fork) holds(id journal.VolumeID) bool {
	_, member := f.record.Point.Members[id]
	return f.isWanted() && member || f.members[id] != nil
}

// isWanted reports whether the fork is to be open.
func (f *fork) isWanted() bool {
	return f.record.State == ForkOpen || f.record.State == ForkCommitting
}

// isCommitting reports whether the fork is about to become production, or is read
// for that.
func (f *fork) isCommitting() bool { return f.frozen || f.record.State == ForkCommitting }

// NewFork is a fork to be made.
type NewFork struct {
	Name       string        // 1 to 63 lower-case letters, digits and hyphens
	Group      string        // of a primary or a replica here
	At         string        // see group.Select
	QuotaBytes int64         // of what is written to it; 0: a part of what is free
	MaxAge     time.Duration // 0: DefaultForkAge
}

// Fork describes a fork at one moment.
type Fork struct {
	Name       string
	Group      string
	State      ForkState
	Reason     string    // why it was given up
	Ended      time.Time // when
	Point      group.Point
	Created    time.Time
	Expires    time.Time
	QuotaBytes int64
	UsedBytes  int64 // of the quota
	HeldBytes  int64 // of the members' journals, that could be destaged without it and without others who hold them
	Full       bool  // its last write found its quota or the file system's reserve used up
	Err        error // why it is not open, or what has stopped a member of it
	Open       bool  // it is shown
	// CommittedBytes of CommitBytes are how far its commit has come, which reads them
	// once and then copies them; 0 of 0 while there is none.
	CommittedBytes, CommitBytes int64
	Members                     []journal.VolumeID
}

// CreateFork makes a fork and shows it; it is there after a restart until it is
// discarded or given up. Errors: ErrForkExists, ErrBadFork, journal.ErrFull where the
// file systems have no room for one, those of group.Select. Nothing is left of one that
// fails.
func (s *Site) CreateFork(ctx context.Context, n NewFork) (Fork, error) {
	if n.MaxAge == 0 {
		n.MaxAge = DefaultForkAge
	}
	switch {
	case !forkName.MatchString(n.Name):
		return Fork{}, fmt.Errorf("fork name %q: want 1 to 63 lower-case letters, digits and hyphens: %w", n.Name, ErrBadFork)
	case n.MaxAge < minForkAge || n.MaxAge > MaxForkAge:
		return Fork{}, fmt.Errorf("fork %s: age of %s: want %s to %s: %w", n.Name, n.MaxAge, minForkAge, MaxForkAge, ErrBadFork)
	}
	unlock, err := s.locks.Lock(ctx, forkKey(n.Name))
	if err != nil {
		return Fork{}, err
	}
	defer unlock()
	if err := s.checkNewFork(ctx, &n); err != nil {
		return Fork{}, fmt.Errorf("create fork %s of group %s: %w", n.Name, n.Group, err)
	}
	f := &fork{record: forkRecord{Name: n.Name, Group: n.Group, State: ForkCreating, Created: s.cfg.Clock.Now().UTC(), MaxAge: n.MaxAge, QuotaBytes: n.QuotaBytes}}
	err = s.saveFork(f.record)
	if err == nil {
		s.mu.Lock()
		s.forks[n.Name] = f
		s.mu.Unlock()
		err = s.makeFork(ctx, f, n.At)
	}
	if err != nil {
		err = fmt.Errorf("create fork %s of group %s: %w", n.Name, n.Group, err)
		return Fork{}, errors.Join(err, s.removeFork(context.WithoutCancel(ctx), f, ForkDiscarding, ""))
	}
	s.cfg.Log.Info("fork created", "fork", n.Name, "group", n.Group, "checkpoint", f.record.Point.Checkpoint, "quotaBytes", n.QuotaBytes, "maxAge", n.MaxAge)
	return s.describeFork(f), nil
}

// checkNewFork refuses, before any effect, what cannot be, and chooses the quota.
func (s *Site) checkNewFork(ctx context.Context, n *NewFork) error {
	s.mu.Lock()
	_, exists := s.forks[n.Name]
	count := 0
	for _, f := range s.forks {
		if !f.record.Removed {
			count++
		}
	}
	s.mu.Unlock()
	switch {
	case exists:
		return ErrForkExists
	case count >= MaxForks:
		return fmt.Errorf("there are %d forks: discard one first: %w", count, ErrBadFork)
	}
	point, err := s.groups.Select(ctx, n.Group, n.At)
	if err != nil {
		return err
	}
	free, err := s.forkRoom()
	if err != nil {
		return err
	}
	least := MinForkQuota * int64(len(point.Members))
	if n.QuotaBytes == 0 {
		n.QuotaBytes = max(least, min(free/defaultQuotaPart, maxDefaultQuota))
	} else if n.QuotaBytes < least {
		return fmt.Errorf("quota of %d bytes: want at least %d for %d volumes: %w", n.QuotaBytes, least, len(point.Members), ErrBadFork)
	}
	if free < least {
		return fmt.Errorf("%d bytes are free above the reserve: %w", free, journal.ErrFull)
	}
	return nil
}

// makeFork pins the members at one point, makes their overlays and shows them. The
// fork's key must be held.
func (s *Site) makeFork(ctx context.Context, f *fork, at string) error {
	next := f.record
	var err error
	if next.Point, err = s.groups.PinPoint(ctx, next.Group, next.pin(), at); err != nil {
		return err
	}
	next.Point.Pins, next.Point.Left = nil, false // they come and go
	next.Overlays = map[journal.VolumeID]journal.VolumeID{}
	for id := range next.Point.Members {
		if next.Overlays[id], err = newOverlayID(); err != nil {
			return err
		}
	}
	if err := s.makeOverlays(&next); err != nil {
		return err
	}
	next.State = ForkOpen
	if err := s.saveFork(next); err != nil {
		return err
	}
	s.mu.Lock()
	f.record = next
	s.mu.Unlock()
	return s.openFork(f)
}

// ListForks returns the site's forks, by name, those that were given up included.
func (s *Site) ListForks() []Fork {
	s.mu.Lock()
	forks := make([]*fork, 0, len(s.forks))
	for _, name := range slices.Sorted(maps.Keys(s.forks)) {
		forks = append(forks, s.forks[name])
	}
	s.mu.Unlock()
	all := make([]Fork, 0, len(forks))
	for _, f := range forks {
		all = append(all, s.describeFork(f))
	}
	return all
}

func (s *Site) describeFork(f *fork) Fork {
	s.mu.Lock()
	r, space, members := f.record, f.space, maps.Clone(f.members)
	out := Fork{Name: r.Name, Group: r.Group, State: r.State, Reason: r.Reason, Ended: r.Ended, Point: r.Point, Created: r.Created, Expires: r.Created.Add(r.MaxAge),
		QuotaBytes: r.QuotaBytes, Err: f.failed, Open: f.members != nil && f.shown}
	s.mu.Unlock()
	out.CommittedBytes, out.CommitBytes = f.commit.figures()
	if space != nil {
		out.UsedBytes, out.Full = space.figures()
	}
	out.Members = slices.SortedFunc(maps.Keys(r.Point.Members), func(a, b journal.VolumeID) int { return slices.Compare(a[:], b[:]) })
	for _, m := range members {
		out.HeldBytes += m.origin.HeldBytes()
		if err := m.store.Err(); err != nil && out.Err == nil {
			out.Err = err
		}
	}
	return out
}

// DiscardFork removes a fork and all that was written to it; ErrNoFork. Whoever has
// it open is cut off.
func (s *Site) DiscardFork(ctx context.Context, name string) error {
	unlock, err := s.locks.Lock(ctx, forkKey(name))
	if err != nil {
		return err
	}
	defer unlock()
	f := s.forkOf(name)
	if f == nil {
		return fmt.Errorf("fork %q: %w", name, ErrNoFork)
	}
	if s.isCommitting(f) {
		return fmt.Errorf("fork %s is being made production: %w", name, groups.ErrInUse)
	}
	return s.removeFork(ctx, f, ForkDiscarding, "")
}

// giveUpFork removes what an open fork has and keeps it listed, with the reason; no
// change if it is not open by now. done reports whether it was given up.
func (s *Site) giveUpFork(ctx context.Context, name, reason string) (done bool, err error) {
	unlock, err := s.locks.Lock(ctx, forkKey(name))
	if err != nil {
		return false, err
	}
	defer unlock()
	f := s.forkOf(name)
	if f == nil || f.record.State != ForkOpen || s.isCommitting(f) {
		return false, nil
	}
	return true, s.giveUp(ctx, f, reason)
}

// giveUp is giveUpFork of an open fork whose key is held.
func (s *Site) giveUp(ctx context.Context, f *fork, reason string) error {
	s.cfg.Log.Warn("fork given up", "fork", f.record.Name, "group", f.record.Group, "reason", reason)
	return s.removeFork(ctx, f, ForkGivenUp, reason)
}

// removeFork ends a fork in a state from which a crash ends it, too. Where an error
// keeps it from its end, the next look at the forks goes on. The fork's key must be
// held.
func (s *Site) removeFork(ctx context.Context, f *fork, state ForkState, reason string) error {
	next := f.record
	if next.State != state {
		next.State, next.Reason, next.Ended = state, reason, s.cfg.Clock.Now().UTC()
		// Without room for this the rest still makes room. What a crash then
		// leaves does not open, and is given up for that.
		if err := s.saveFork(next); err != nil && !isFull(err) {
			return err
		}
	}
	s.mu.Lock()
	f.record, f.failed = next, nil
	s.mu.Unlock()
	if err := s.closeFork(f); err != nil {
		s.cfg.Log.Warn("closing a fork failed", "fork", next.Name, "error", err)
	}
	if err := s.removeOverlays(next.Name); err != nil {
		return err
	}
	if err := s.UnpinPoint(ctx, next.pin()); err != nil {
		return err
	}
	if state == ForkGivenUp {
		next.Removed = true
		if err := s.saveFork(next); err != nil {
			return err
		}
		s.mu.Lock()
		f.record = next
		s.mu.Unlock()
		return nil
	}
	if err := s.deleteFork(next.Name); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.forks, next.Name)
	s.mu.Unlock()
	return nil
}

// OwnsPin reports whether a pin is that of a fork.
func (s *Site) OwnsPin(pin string) bool {
	name, ok := strings.CutPrefix(pin, groups.ForkPinPrefix)
	return ok && s.forkOf(name) != nil
}

// forkOf returns a fork; nil if there is none of that name.
func (s *Site) forkOf(name string) *fork {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forks[name]
}

// checkUnforked makes sure that no fork needs a volume; groups.ErrInUse.
func (s *Site) checkUnforked(id journal.VolumeID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, f := range s.forks {
		if f.holds(id) {
			return inUseByFork(name, id)
		}
	}
	return nil
}

func forkKey(name string) string { return "fork/" + name }
