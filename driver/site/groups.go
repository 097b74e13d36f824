package site

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// running is what runs for a group on this site: for a primary its coordinator
// and its sender, for a replica nothing but what it was last told.
type running struct {
	stop   context.CancelFunc
	joined sync.WaitGroup
	coord  *group.Coordinator // nil on a replica
	sender *replication.Sender
	// announced is the primary's newest word, on a replica.
	announced replication.Announcement
}

// Peer is how to reach another site.
type Peer struct {
	Address string
	Conn    grpc.ClientConnInterface
}

// startGroup finishes what was interrupted and starts what the group's role
// asks for. The group's key must be held, or nobody else be there yet.
func (s *Site) startGroup(name string) error {
	st, err := s.reg.Get(name)
	if err != nil {
		return err
	}
	if st.Pending != nil {
		engines, err := s.enginesOf(st.Members)
		if err != nil {
			return fmt.Errorf("finish %s of group %s: %w", st.Pending.Kind, name, err)
		}
		if st, err = s.reg.Finish(name, forkers(engines)); err != nil {
			return err
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{stop: stop}
	if st.Role == group.RolePrimary {
		if err := s.startPrimary(ctx, r, st); err != nil {
			stop()
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups[name] = r
	return nil
}

// startPrimary lets the members take writes and begins to take checkpoints
// and to replicate. While a member's store is not open the others serve, but no
// recovery point comes into being: it would lack that member.
func (s *Site) startPrimary(ctx context.Context, r *running, st group.State) error {
	members := s.membersOf(st)
	last, lastAt := st.LastCheckpoint, time.Time{}
	for _, m := range members {
		eng, ok := m.(*engine.Engine)
		if !ok {
			s.cfg.Log.Error("a member is not open: its group takes no recovery points", "group", st.Name, "volume", m.Volume())
			continue
		}
		eng.SetReadOnly(false)
		if points := eng.Store().Checkpoints(); len(points) > 0 {
			newest := points[len(points)-1]
			last, lastAt = max(last, newest.Number), later(lastAt, newest.Time)
		}
	}
	r.coord = group.NewCoordinator(st.Name, st.Settings, last, lastAt, s.cfg.Clock)
	r.coord.SetMembers(members)
	r.joined.Go(func() { _ = r.coord.Run(ctx) })
	return s.startSender(ctx, r, st)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// startSender replicates the group to its peer, if it has one.
func (s *Site) startSender(ctx context.Context, r *running, st group.State) error {
	if st.Settings.ReplicateTo == "" {
		return nil
	}
	peer, ok := s.cfg.Peers[st.Settings.ReplicateTo]
	if !ok {
		s.cfg.Log.Error("group is to be replicated to a site that is no peer of this one", "group", st.Name, "peer", st.Settings.ReplicateTo)
		return nil
	}
	var err error
	r.sender, err = replication.NewSender(replication.SenderConfig{
		Group: st.Name, Peer: st.Settings.ReplicateTo, Conn: peer.Conn, Sources: sources{s}, Groups: standings{s},
		Clock: s.cfg.Clock, Random: rand.Float64, Compress: true, Log: s.cfg.Log,
	})
	if err != nil {
		return err
	}
	r.joined.Go(func() {
		if err := r.sender.Run(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("replication ended", "group", st.Name, "error", err)
		}
	})
	return nil
}

// stopGroup ends what startGroup started; members refuse changes afterwards
// only if the caller makes them. No error if it does not run.
func (s *Site) stopGroup(name string) {
	s.mu.Lock()
	r := s.groups[name]
	delete(s.groups, name)
	s.mu.Unlock()
	if r != nil {
		r.stop()
		r.joined.Wait()
	}
}

// restartGroup applies a changed state.
func (s *Site) restartGroup(name string) error {
	s.stopGroup(name)
	return s.startGroup(name)
}

func (s *Site) runningOf(name string) *running {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.groups[name]
}

// coordinatorOf returns the coordinator of a group that is primary here.
func (s *Site) coordinatorOf(name string) (*group.Coordinator, error) {
	st, err := s.reg.Get(name)
	if err != nil {
		return nil, err
	}
	r := s.runningOf(name)
	if st.Role != group.RolePrimary || r == nil || r.coord == nil {
		return nil, fmt.Errorf("group %s: this site is its %s, and site %s takes its checkpoints: %w", name, st.Role, st.Source, group.ErrRole)
	}
	return r.coord, nil
}

// refreshMembers tells a running coordinator who its members are now.
func (s *Site) refreshMembers(st group.State) {
	r := s.runningOf(st.Name)
	if r == nil || r.coord == nil {
		return
	}
	r.coord.SetMembers(s.membersOf(st))
}

// membersOf returns all members for the coordinator, with an absentMember for
// each that is not open.
func (s *Site) membersOf(st group.State) []group.Member {
	var members []group.Member
	for _, id := range st.Members {
		if eng, err := s.engineOf(id); err == nil {
			members = append(members, eng)
		} else {
			members = append(members, absentMember{id, err})
		}
	}
	return members
}

// stopWrites makes every member of a group refuse changes and waits for those
// in flight.
func (s *Site) stopWrites(ctx context.Context, ids []journal.VolumeID) error {
	var errs []error
	for _, id := range ids {
		if eng, err := s.engineOf(id); err == nil {
			errs = append(errs, eng.StopChanges(ctx))
		}
	}
	return errors.Join(errs...)
}

func forkers(engines []*engine.Engine) []group.Forker {
	out := make([]group.Forker, len(engines))
	for i, e := range engines {
		out[i] = e.Store()
	}
	return out
}
