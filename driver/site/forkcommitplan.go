package site

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

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
