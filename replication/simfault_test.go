package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

func (m *sim) crashOrBoot(s *simSite) {
	if !s.up {
		m.boot(s)
		m.logf("%s boots", s.name)
		return
	}
	m.counts.Crashes++
	m.logf("%s crashes", s.name)
	for _, st := range m.live {
		if st.from == s {
			m.closeSource(st, errors.New("crash"))
		}
		if st.to == s {
			m.loseReplica(st)
		}
	}
	s.up = false
	for _, v := range m.volumes {
		if store := s.stores[v]; store != nil {
			s.stores[v] = store.crash(m.rng, m.newTimeline())
			m.guard(s, v)
		}
	}
}

func (m *sim) diskFault(s *simSite) {
	store := s.stores[m.pickVolume()]
	if store == nil || !s.up {
		return
	}
	m.counts.DiskFaults++
	flush := m.oneIn(2)
	store.breakNext(flush)
	m.logf("%s will have a disk fault on volume %d, flush %v", s.name, store.Volume()[0], flush)
}

// rewind forks the members of a primary at an older checkpoint, or at where
// they were before the last rewind.
func (m *sim) rewind(s *simSite) {
	if !m.isPrimary(s) {
		return
	}
	to := m.groupPoint(s)
	if m.oneIn(2) && len(s.undo) == len(m.volumes) {
		to = s.undo
	}
	if to == nil {
		return
	}
	m.counts.Rewinds++
	back := make(map[journal.VolumeID]journal.Position)
	for _, v := range m.volumes {
		back[v] = s.stores[v].Tip()
		if m.writable(s.stores[v]) {
			err := s.stores[v].fork(m.newTimeline(), to[v], "rewind")
			m.logf("%s rewinds volume %d to %s: %v", s.name, v[0], to[v], err)
		}
	}
	s.undo = back
}

// groupPoint picks a checkpoint that all members hold durably.
func (m *sim) groupPoint(s *simSite) map[journal.VolumeID]journal.Position {
	var held []map[[2]int64]journal.Position
	for _, v := range m.volumes {
		if s.stores[v] == nil {
			return nil
		}
		held = append(held, s.stores[v].checkpoints())
	}
	var keys [][2]int64
	for key := range held[0] {
		if _, ok := held[1][key]; ok {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	slices.SortFunc(keys, func(a, b [2]int64) int { return int(a[1] - b[1]) })
	key := keys[len(keys)-1-m.rng.IntN(min(3, len(keys)))]
	point := map[journal.VolumeID]journal.Position{}
	for i, v := range m.volumes {
		point[v] = held[i][key]
		if point[v] != m.cuts[key][v] {
			m.fail(fmt.Errorf("site %s has checkpoint %d of volume %d at %s, want %s", s.name, key[0], v[0], point[v], m.cuts[key][v]))
		}
	}
	m.counts.PointsChecked++
	return point
}

// trim moves the horizon of a member.
func (m *sim) trim(s *simSite) {
	store := s.stores[m.pickVolume()]
	if store == nil || !s.up {
		return
	}
	path := store.Path()
	run := path[m.rng.IntN(len(path))]
	if run.Last < run.First {
		return
	}
	to := journal.Position{Timeline: run.Timeline, Seq: run.First + journal.Seq(m.rng.IntN(int(run.Last-run.First+1)))}
	// A replica's acknowledged position never leaves its horizon here, so
	// that it can be looked for.
	if acked, ok := s.acked[store.Volume()]; ok && !path.Contains(acked) || ok && acked.Seq < to.Seq {
		return
	}
	store.trim(to)
	m.logf("%s trims volume %d to %s", s.name, store.Volume()[0], to)
}

// failover promotes a replica at its newest common checkpoint.
func (m *sim) failover(s *simSite) {
	if !s.up || !s.known || s.held.Role != group.RoleReplica {
		return
	}
	for _, v := range m.volumes {
		if !m.writable(s.stores[v]) {
			return
		}
	}
	release, err := s.admission.fence(context.Background(), modelGroup)
	if err != nil {
		m.fail(err)
	}
	defer release()
	s.held = Standing{Role: group.RolePrimary, Term: s.held.Term + 1}
	point := m.groupPoint(s)
	for _, v := range m.volumes {
		at := s.stores[v].Durable()
		if point != nil {
			at = point[v]
		}
		m.mustFork(s, v, at)
	}
	s.acked = make(map[journal.VolumeID]journal.Position)
	s.undo = make(map[journal.VolumeID]journal.Position)
	m.counts.Failovers++
	m.logf("%s is promoted to term %d", s.name, s.held.Term)
}

// mustFork forks a member of a promoted group. A promotion is not complete,
// and the site must not send, before every member is forked: a disk fault in
// between is met by opening the store and forking again.
func (m *sim) mustFork(s *simSite, v journal.VolumeID, at journal.Position) {
	err := s.stores[v].fork(m.newTimeline(), at, "failover")
	if errors.Is(err, journal.ErrPoisoned) {
		var store siteStore
		if store, err = s.open(v); err == nil {
			m.guard(s, v)
			err = store.fork(m.newTimeline(), at, "failover")
		}
	}
	if err != nil {
		m.fail(fmt.Errorf("fork volume %d at %s: %w", v[0], at, err))
	}
}
