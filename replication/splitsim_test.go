package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// Size of the simulation of separate roles; see sim_test.go.
const (
	splitSeeds        = 200
	splitSteps        = 5000
	splitJournalSeeds = 20
	splitJournalSteps = 2500
)

// TestSplitSimulation: controller, gateway and engines of both sites are
// processes that die on their own. Every replica always equals a prefix of
// what was written, and no term comes back after a fence.
func TestSplitSimulation(t *testing.T) {
	first, last := seedRange(t, splitSeeds)
	total := splitSimulateAll(t, first, last, splitSteps, modelStores)
	if last-first+1 < splitSeeds {
		return
	}
	for i, n := range total.fields() {
		if *n == 0 {
			t.Errorf("the simulation never came to case %d of %+v", i, total)
		}
	}
}

// TestSplitSimulationOverJournal is the same over stores of package journal.
func TestSplitSimulationOverJournal(t *testing.T) {
	first, last := seedRange(t, splitJournalSeeds)
	splitSimulateAll(t, first, last, splitJournalSteps, journalStores)
}

func splitSimulateAll(t *testing.T, first, last uint64, steps int, stores makeStores) *splitCounts {
	total := new(splitCounts)
	for seed := first; seed <= last && !t.Failed(); seed++ {
		counts := splitSimulate(t, seed, steps, stores)
		for i, n := range counts.fields() {
			*total.fields()[i] += *n
		}
	}
	t.Logf("%d seeds of %d steps: %+v", last-first+1, steps, *total)
	return total
}

func splitSimulate(t *testing.T, seed uint64, steps int, stores makeStores) splitCounts {
	t.Helper()
	m := newSplitSim(t, seed, stores)
	defer func() {
		if cause := recover(); cause != nil {
			m.fail(fmt.Errorf("panic: %v", cause))
		}
	}()
	for range steps {
		m.step()
		if err := m.check(); err != nil {
			m.fail(err)
		}
	}
	m.settle()
	return m.counts
}

// step does one thing, of the world or of one of the processes.
func (m *splitSim) step() {
	n := m.rng.IntN(1000)
	s := m.sites[m.rng.IntN(2)]
	e := s.engines[m.pickVolume()]
	switch {
	case n < 170:
		m.write(e)
	case n < 195:
		if e.primary() && e.store.failure() == nil {
			_ = e.store.Flush(context.Background())
		}
	case n < 215:
		m.checkpoint(s)
	case n < 240:
		m.announce(s)
	case n < 270:
		m.orderEngine(s, e.volume)
	case n < 300:
		m.deliverOrder()
		m.deliverLift()
	case n < 340:
		m.connect(e)
	case n < 955:
		m.advance()
	case n < 975:
		m.promoteSometimes(s)
	default:
		m.fault(n-975, s, e)
	}
}

// promoteSometimes begins failovers seldom and takes those under way on.
func (m *splitSim) promoteSometimes(s *splitSite) {
	if s.ctl.op != nil || m.oneIn(8) {
		m.promote(s)
	}
}

// fault is one of the things that go wrong, or get well again.
func (m *splitSim) fault(n int, s *splitSite, e *splitEngine) {
	switch {
	case n < 2:
		m.crashEngine(e)
	case n < 3:
		m.crashController(s)
	case n < 4:
		m.crashGateway(s)
	case n < 5:
		m.linkUp = !m.linkUp
		m.logf("link up: %v", m.linkUp)
	case n < 7:
		if len(m.live) > 0 {
			m.cutStream(m.live[m.rng.IntN(len(m.live))])
		}
	case n < 9:
		if e.store != nil && e.up {
			m.counts.DiskFaults++
			e.store.breakNext(m.oneIn(2))
		}
	case n < 11:
		m.rewind(s)
	case n < 13:
		m.trim(s, e)
	case n < 16:
		m.damage()
	default:
		m.repair(s)
	}
}

// repair starts everything of a site that is down.
func (m *splitSim) repair(s *splitSite) {
	m.linkUp, s.gatewayUp = true, true
	if !s.ctl.up {
		m.bootController(s)
	}
	for _, v := range m.volumes {
		if !s.engines[v].up {
			m.bootEngine(s.engines[v])
		}
	}
}

func (m *splitSim) write(e *splitEngine) {
	if !e.primary() || e.store.failure() != nil {
		return
	}
	kind := []journal.Kind{journal.KindWrite, journal.KindWrite, journal.KindDiscard, journal.KindZero}[m.rng.IntN(4)]
	first := m.rng.IntN(modelSectors)
	count := 1 + m.rng.IntN(min(3, modelSectors-first))
	if err := e.store.write(kind, int64(first)*journal.SectorBytes, int64(count)*journal.SectorBytes); err == nil {
		m.logf("engine %s/%d writes %s", e.site.name, e.volume[0], e.store.Tip())
	}
}

func (m *splitSim) crashEngine(e *splitEngine) {
	if !e.up {
		m.bootEngine(e)
		return
	}
	m.counts.EngineCrashes++
	m.logf("engine %s/%d crashes", e.site.name, e.volume[0])
	lost := errors.New("engine died")
	for _, st := range m.live {
		if st.from == e {
			m.closeSource(st, lost)
		}
		if st.to == e && (st.routed || m.oneIn(2)) {
			m.endReplica(st, lost)
		}
	}
	e.up = false
	if e.store != nil {
		e.store = e.store.crash(m.rng, m.newTimeline())
	}
}

func (m *splitSim) crashController(s *splitSite) {
	if !s.ctl.up {
		m.bootController(s)
		return
	}
	m.counts.ControllerCrashes++
	m.logf("controller %s crashes", s.name)
	s.ctl.up = false
}

func (m *splitSim) crashGateway(s *splitSite) {
	if !s.gatewayUp {
		s.gatewayUp = true
		return
	}
	m.counts.GatewayCrashes++
	m.logf("gateway %s crashes", s.name)
	s.gatewayUp = false
	for _, st := range m.live {
		if st.to.site == s {
			m.cutStream(st)
		}
	}
}

// trim moves the horizon of a member, never past what is looked for later.
func (m *splitSim) trim(s *splitSite, e *splitEngine) {
	if e.store == nil || !e.up || s.ctl.op != nil || e.store.failure() != nil {
		return
	}
	path := e.store.Path()
	run := path[m.rng.IntN(len(path))]
	if run.Last < run.First {
		return
	}
	to := journal.Position{Timeline: run.Timeline, Seq: run.First + journal.Seq(m.rng.IntN(int(run.Last-run.First+1)))}
	if e.acked != nil && (!path.Contains(*e.acked) || e.acked.Seq < to.Seq) {
		return
	}
	e.store.trim(to)
	m.logf("engine %s/%d trims to %s", s.name, e.volume[0], to)
}

// damage repeats or exchanges messages between gateway and engine.
func (m *splitSim) damage() {
	if len(m.live) == 0 {
		return
	}
	st := m.live[m.rng.IntN(len(m.live))]
	if st.repClosed || st.rep == nil || len(st.passed) == 0 {
		return
	}
	if len(st.passed) > 1 && m.oneIn(2) {
		st.passed[0], st.passed[1] = st.passed[1], st.passed[0]
	} else {
		st.passed = slices.Insert(st.passed, 0, st.passed[0])
	}
	st.damaged = true
}

// check holds after every step.
func (m *splitSim) check() error {
	for _, s := range m.sites {
		for _, v := range m.volumes {
			e := s.engines[v]
			if e.store == nil {
				continue
			}
			if err := e.store.verify(); err != nil {
				return fmt.Errorf("site %s: %w", s.name, err)
			}
			if e.acked != nil && !e.store.holds(*e.acked) {
				return fmt.Errorf("site %s acknowledged %s of volume %d and does not hold it", s.name, *e.acked, v[0])
			}
		}
	}
	return nil
}

// settle ends all faults and demands that the sites come to the same state.
func (m *splitSim) settle() {
	for _, s := range m.sites {
		m.repair(s)
		for _, v := range m.volumes {
			if e := s.engines[v]; e.store != nil {
				e.store.heal()
				if _, err := e.open(); err != nil {
					m.fail(err)
				}
			}
		}
	}
	for range 4000 {
		for _, s := range m.sites {
			if s.ctl.op != nil {
				m.promote(s)
			}
			m.announce(s)
			for _, v := range m.volumes {
				e := s.engines[v]
				m.orderEngine(s, v)
				m.connect(e)
				if e.primary() {
					_ = e.store.Flush(context.Background())
				}
			}
		}
		for len(m.ordered) > 0 || len(m.lifts) > 0 {
			m.deliverOrder()
			m.deliverLift()
		}
		for _, st := range slices.Clone(m.live) {
			for part := range 5 {
				m.move(st, part)
			}
			if st.damaged {
				m.cutStream(st)
			}
		}
		m.advance()
		if err := m.check(); err != nil {
			m.fail(err)
		}
		if m.converged() {
			return
		}
	}
	for _, s := range m.sites {
		m.t.Logf("controller %s: %+v, promotes %+v", s.name, s.ctl.held, s.ctl.op)
		for _, v := range m.volumes {
			m.t.Logf("  engine %d: %+v, fenced at %d", v[0], s.engines[v].orders, s.engines[v].floor)
		}
	}
	m.fail(errors.New("the sites do not come to the same state"))
}

// converged reports whether one site is primary and the other holds exactly
// the same, with everything that was announced of the members.
func (m *splitSim) converged() bool {
	for _, s := range m.sites {
		peer := m.other(s)
		if !m.ready(s) || peer.ctl.held.Role != group.RoleReplica || len(peer.ctl.members) != len(m.volumes) {
			continue
		}
		same := peer.ctl.members[0].Attributes["later"] == "kept"
		for _, v := range m.volumes {
			a, b := s.engines[v], peer.engines[v].store
			same = same && b != nil && b.failure() == nil && a.store.Path().Contains(b.Durable()) && a.store.Tip().Seq == b.Durable().Seq &&
				a.out != nil && a.out.begun && len(a.out.src.credit.flight) == 0
		}
		if same {
			return true
		}
	}
	return false
}
