package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// announce is one heartbeat of a site's controller through the other's gateway.
func (m *splitSim) announce(s *splitSite) {
	peer := m.other(s)
	if !m.leads(s) || !m.linkUp || !peer.gatewayUp || !peer.ctl.up {
		return
	}
	ann := Announcement{Group: modelGroup, Term: s.ctl.held.Term, Members: s.ctl.members, NewestCheckpoint: s.ctl.newest}
	req := transfer(m, encodeAnnouncement(ann), &replicationv1.AnnounceRequest{})
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), peerName{}, s.name))
	defer cancel()
	if peer.ctl.op != nil {
		cancel() // nobody can wait in a simulation
	}
	before := peer.ctl.held
	_, err := peer.ctl.server.Announce(ctx, req)
	if peer.ctl.held.Term < before.Term {
		m.fail(fmt.Errorf("term of controller %s fell from %d to %d", peer.name, before.Term, peer.ctl.held.Term))
	}
	if peer.ctl.op != nil {
		m.counts.HeldAnnouncements++
		if err == nil || peer.ctl.held != before {
			m.fail(fmt.Errorf("controller %s judged an announcement while it is being promoted", peer.name))
		}
	}
	err = fromStatus(err, peer.name, modelGroup, ann.Term)
	m.logf("controller %s announces term %d: %v", s.name, ann.Term, err)
	demoted, err := demoteIfStale(context.Background(), s.ctl, modelGroup, err)
	if err != nil {
		m.fail(err)
	}
	if demoted {
		m.counts.Demotions++
	}
}

// leads reports whether a controller announces: it is primary, and all members
// are forked.
func (m *splitSim) leads(s *splitSite) bool {
	return s.ctl.up && s.ctl.known && s.ctl.held.Role == group.RolePrimary && s.ctl.op == nil
}

// orderEngine sends an engine what its controller holds. It may be lost, and may
// be overtaken by a later one.
func (m *splitSim) orderEngine(s *splitSite, v journal.VolumeID) {
	if !s.ctl.up || !s.ctl.known || s.ctl.op != nil {
		return
	}
	if s.ctl.tried > s.ctl.held.Term {
		m.lifts = append(m.lifts, liftUnderWay{s.engines[v], s.ctl.tried, s.ctl.held.Term})
	}
	s.ctl.revision++
	m.ordered = append(m.ordered, orderUnderWay{s.engines[v],
		order{term: s.ctl.held.Term, revision: s.ctl.revision, role: s.ctl.held.Role, source: s.ctl.held.Source}})
}

// deliverOrder takes any of the orders under way.
func (m *splitSim) deliverOrder() {
	if len(m.ordered) == 0 {
		return
	}
	i := m.rng.IntN(len(m.ordered))
	o := m.ordered[i]
	m.ordered = slices.Delete(m.ordered, i, i+1)
	if o.to.up && !m.oneIn(5) {
		m.obey(o.to, o.order)
	}
}

// deliverLift takes any of the lifts under way: often late.
func (m *splitSim) deliverLift() {
	if len(m.lifts) == 0 {
		return
	}
	i := m.rng.IntN(len(m.lifts))
	l := m.lifts[i]
	m.lifts = slices.Delete(m.lifts, i, i+1)
	switch {
	case !l.to.up:
	case l.to.floor <= l.term:
		l.to.floor = max(l.keep, l.to.orders.term)
	case l.to.orders.term < l.term:
		// It would let the old term in again behind a fence of a later
		// promotion.
		m.counts.LateLifts++
	}
}

// obey is an engine that gets an order.
func (m *splitSim) obey(e *splitEngine, o order) {
	held := e.orders
	if o.term < max(held.term, e.floor) || o.term == held.term && o.revision < held.revision {
		m.counts.StaleOrders++
		return
	}
	if o.term == held.term && o.role == held.role && o.source == held.source {
		e.orders.revision = o.revision
		return
	}
	err := e.server.Change(context.Background(), func(context.Context) error {
		e.orders = o
		return nil
	})
	if err != nil {
		m.fail(err)
	}
	if e.out != nil {
		m.closeSource(e.out, errors.New("told to stop"))
	}
	if o.role == group.RolePrimary {
		e.acked = nil
	}
	m.logf("engine %s/%d is ordered to be %s of %q at term %d", e.site.name, e.volume[0], o.role, o.source, o.term)
}

// promote begins a failover at a site, or takes the one under way a step on.
func (m *splitSim) promote(s *splitSite) {
	c := s.ctl
	if !c.up || !c.known {
		return
	}
	if c.op == nil {
		if c.held.Role != group.RoleReplica || slices.ContainsFunc(m.volumes, func(v journal.VolumeID) bool { return s.engines[v].store == nil }) {
			return
		}
		s.kept = s.fenced
		c.op = &promotion{term: max(c.held.Term, c.tried) + 1, fenced: make(map[journal.VolumeID]bool), forked: make(map[journal.VolumeID]bool)}
		m.hold(s)
		m.logf("controller %s begins to promote to term %d", s.name, c.op.term)
		return
	}
	v := m.pickVolume()
	e := s.engines[v]
	switch {
	case c.op.targets == nil && m.oneIn(10):
		c.tried, c.op, s.fenced = c.op.term, nil, s.kept
		c.release()
		m.counts.GivenUp++
		m.logf("controller %s gives up to promote to term %d", s.name, c.tried)
	case c.op.targets == nil && len(c.op.fenced) < len(m.volumes):
		if e.up {
			if err := e.server.Fence(context.Background(), c.op.term); err != nil {
				m.fail(err)
			}
			c.op.fenced[v] = true
			m.logf("engine %s/%d is fenced at term %d", s.name, v[0], c.op.term)
		}
		if len(c.op.fenced) == len(m.volumes) {
			s.fenced = c.op.term
		}
	case c.op.targets == nil:
		m.choosePoint(s)
	case len(c.op.forked) < len(m.volumes):
		m.forkMember(s, e)
	default:
		c.op = nil
		c.release()
		m.counts.Failovers++
		m.logf("controller %s is primary at term %d", s.name, c.held.Term)
	}
}

// choosePoint makes the term durable together with where the members fork.
func (m *splitSim) choosePoint(s *splitSite) {
	targets := make(map[journal.VolumeID]journal.Position)
	for _, v := range m.volumes {
		if !s.engines[v].up {
			return
		}
		store, err := s.engines[v].open()
		if err != nil {
			m.fail(err)
		}
		targets[v] = store.Durable()
	}
	if point := m.groupPoint(s); point != nil {
		targets = point
	}
	s.ctl.op.targets = targets
	s.ctl.held = Standing{Role: group.RolePrimary, Term: s.ctl.op.term}
}

// forkMember forks one member, once however often it is tried.
func (m *splitSim) forkMember(s *splitSite, e *splitEngine) {
	if !e.up || s.ctl.op.forked[e.volume] {
		return
	}
	store, err := e.open()
	if err != nil {
		m.fail(err)
	}
	reason := fmt.Sprintf("failover %d", s.ctl.op.term)
	if !m.cameBy(store, reason) {
		err := store.fork(m.newTimeline(), s.ctl.op.targets[e.volume], reason)
		if errors.Is(err, journal.ErrPoisoned) {
			return // it is opened again and asked once more
		}
		if err != nil {
			m.fail(fmt.Errorf("fork volume %d at %s: %w", e.volume[0], s.ctl.op.targets[e.volume], err))
		}
	}
	s.ctl.op.forked[e.volume] = true
	e.acked = nil
}

// cameBy reports whether a timeline of the store's path was made for reason.
func (m *splitSim) cameBy(store siteStore, reason string) bool {
	on := make(map[journal.TimelineID]bool)
	for _, run := range store.Path() {
		on[run.Timeline] = true
	}
	return slices.ContainsFunc(store.Timelines(), func(t journal.Timeline) bool { return on[t.ID] && t.Reason == reason })
}

// groupPoint picks a checkpoint that all members hold durably.
func (m *splitSim) groupPoint(s *splitSite) map[journal.VolumeID]journal.Position {
	var held []map[[2]int64]journal.Position
	for _, v := range m.volumes {
		if s.engines[v].store == nil {
			return nil
		}
		held = append(held, s.engines[v].store.checkpoints())
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
	m.counts.Points++
	return point
}

// ready reports whether all engines of a site take changes at the term that
// its controller holds.
func (m *splitSim) ready(s *splitSite) bool {
	for _, v := range m.volumes {
		e := s.engines[v]
		if !e.primary() || e.orders.term != s.ctl.held.Term || e.store == nil || e.store.failure() != nil {
			return false
		}
	}
	return m.leads(s)
}

// checkpoint stamps one into all members.
func (m *splitSim) checkpoint(s *splitSite) {
	if !m.ready(s) {
		return
	}
	s.ctl.newest++
	m.ckpt++
	key := [2]int64{int64(s.ctl.newest), checkpointTime(m.ckpt)}
	m.cuts[key] = make(map[journal.VolumeID]journal.Position)
	for _, v := range m.volumes {
		store := s.engines[v].store
		if store.write(journal.KindCheckpoint, key[0], key[1]) == nil {
			m.cuts[key][v] = store.Tip()
			_ = store.Flush(context.Background())
		}
	}
	m.logf("controller %s takes checkpoint %d", s.name, key[0])
}

// rewind forks the members of a primary at an older checkpoint.
func (m *splitSim) rewind(s *splitSite) {
	if !m.ready(s) {
		return
	}
	to := m.groupPoint(s)
	if to == nil {
		return
	}
	m.counts.Rewinds++
	for _, v := range m.volumes {
		err := s.engines[v].store.fork(m.newTimeline(), to[v], "rewind")
		m.logf("site %s rewinds volume %d to %s: %v", s.name, v[0], to[v], err)
	}
}
