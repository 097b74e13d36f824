package replication

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// Size of the simulation: within a minute by default;
// LOCKSTEP_SIM_SEEDS runs more seeds, LOCKSTEP_SIM_SEED a single one.
const (
	simSeeds = 300
	simSteps = 4000
	// Over package journal.
	simJournalSeeds = 40
	simJournalSteps = 2000
)

func TestSimulation(t *testing.T) {
	first, last := seedRange(t, simSeeds)
	total := simulateAll(t, first, last, simSteps, modelStores)
	if last-first+1 >= simSeeds {
		total.demandAll(t)
	}
}

// TestSimulationOverJournal is the same over stores of package journal on
// simulated disks, which are slower: fewer seeds.
func TestSimulationOverJournal(t *testing.T) {
	first, last := seedRange(t, simJournalSeeds)
	simulateAll(t, first, last, simJournalSteps, journalStores)
}

// seedRange is the seeds to try: as many as the test wants unless the
// environment says otherwise.
func seedRange(t *testing.T, seeds uint64) (first, last uint64) {
	t.Helper()
	read := func(name string) (uint64, bool) {
		text, ok := os.LookupEnv(name)
		if !ok {
			return 0, false
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("read %s: %v", name, err)
		}
		return n, true
	}
	if seed, ok := read("LOCKSTEP_SIM_SEED"); ok {
		return seed, seed
	}
	if n, ok := read("LOCKSTEP_SIM_SEEDS"); ok {
		seeds = n
	}
	return 1, seeds
}

func simulateAll(t *testing.T, first, last uint64, steps int, stores makeStores) simCounts {
	var total simCounts
	for seed := first; seed <= last && !t.Failed(); seed++ {
		total.add(simulate(t, seed, steps, stores))
	}
	t.Logf("%d seeds of %d steps: %+v", last-first+1, steps, total)
	return total
}

// makeStores chooses what a simulation runs on.
type makeStores func(histories map[journal.VolumeID]*history, rng *rand.Rand) storeMaker

func modelStores(histories map[journal.VolumeID]*history, _ *rand.Rand) storeMaker {
	return modelMaker{histories}
}

func journalStores(histories map[journal.VolumeID]*history, rng *rand.Rand) storeMaker {
	return realMaker{histories, rng}
}

func simulate(t *testing.T, seed uint64, steps int, stores makeStores) simCounts {
	t.Helper()
	m := newSim(t, seed, stores)
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

func newSim(t *testing.T, seed uint64, stores makeStores) *sim {
	c, err := newCodec(seed%2 == 0)
	if err != nil {
		t.Fatal(err)
	}
	m := &sim{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), linkUp: true, timeline: 100, codec: c,
		volumes: []journal.VolumeID{{1}, {2}}, cuts: make(map[[2]int64]map[journal.VolumeID]journal.Position)}
	histories := map[journal.VolumeID]*history{}
	for _, v := range m.volumes {
		histories[v] = newHistory()
	}
	for i, name := range []string{"a", "b"} {
		s := &simSite{modelSite: newModelSite(name, histories), up: true, undo: make(map[journal.VolumeID]journal.Position),
			acked: make(map[journal.VolumeID]journal.Position)}
		s.make = stores(histories, m.rng)
		s.reopen = func(old siteStore) siteStore { return old.crash(m.rng, m.newTimeline()) }
		s.swapped = func(v journal.VolumeID) { delete(s.acked, v); m.counts.Images++ }
		m.sites[i] = s
		m.boot(s)
	}
	m.sites[0].lead(1, m.volumes...)
	return m
}

func (m *sim) fail(err error) {
	tail := m.trace[max(0, len(m.trace)-40):]
	for _, line := range tail {
		m.t.Log(line)
	}
	m.t.Fatalf("seed %d, step %d: %v (run it with LOCKSTEP_SIM_SEED=%d)", m.seed, len(m.trace), err, m.seed)
}

func (m *sim) logf(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
}

func (m *sim) newTimeline() journal.TimelineID {
	m.timeline++
	return journal.TimelineID(m.timeline)
}

// boot starts a site's process.
func (m *sim) boot(s *simSite) {
	s.up, s.announced = true, false
	s.streams = make(map[journal.VolumeID]*simStream)
	s.admission = &admission{site: s.name, standings: s, groups: s, stores: s, gate: newGate(), images: newPartialImages(), codec: m.codec,
		creditBytes: 3000}
}

func (m *sim) other(s *simSite) *simSite {
	if s == m.sites[0] {
		return m.sites[1]
	}
	return m.sites[0]
}

func (m *sim) pickSite() *simSite           { return m.sites[m.rng.IntN(2)] }
func (m *sim) pickVolume() journal.VolumeID { return m.volumes[m.rng.IntN(len(m.volumes))] }
func (m *sim) isPrimary(s *simSite) bool    { return s.up && s.known && s.held.Role == group.RolePrimary }
func (m *sim) oneIn(n int) bool             { return m.rng.IntN(n) == 0 }
func (m *sim) writable(s siteStore) bool    { return s != nil && s.failure() == nil }

// step does one thing, of the world or of one of the state machines.
func (m *sim) step() {
	n := m.rng.IntN(1000)
	s := m.pickSite()
	switch {
	case n < 180:
		m.write(s)
	case n < 230:
		m.flushOrCheckpoint(s)
	case n < 270:
		m.announce(s)
	case n < 310:
		m.connect(s)
	case n < 968:
		m.advance()
	case n < 971:
		m.cut()
	case n < 973:
		m.linkUp = !m.linkUp
		m.logf("link up: %v", m.linkUp)
	case n < 977:
		m.crashOrBoot(s)
	case n < 979:
		m.diskFault(s)
	case n < 982:
		m.rewind(s)
	case n < 984:
		m.trim(s)
	case n < 986:
		m.damage()
	case n < 989:
		m.failover(s)
	default:
		if !s.up {
			m.boot(s)
			m.logf("%s boots", s.name)
		}
		m.linkUp = true
	}
}

func (m *sim) write(s *simSite) {
	if !m.isPrimary(s) {
		return
	}
	store := s.stores[m.pickVolume()]
	if !m.writable(store) {
		return
	}
	kind := []journal.Kind{journal.KindWrite, journal.KindWrite, journal.KindDiscard, journal.KindZero}[m.rng.IntN(4)]
	first := m.rng.IntN(modelSectors)
	count := 1 + m.rng.IntN(min(3, modelSectors-first))
	if err := store.write(kind, int64(first)*journal.SectorBytes, int64(count)*journal.SectorBytes); err == nil {
		m.logf("%s writes %s", s.name, store.Tip())
	}
}

// flushOrCheckpoint flushes one member, or stamps a checkpoint into all.
func (m *sim) flushOrCheckpoint(s *simSite) {
	if !m.isPrimary(s) {
		return
	}
	if m.oneIn(2) {
		if store := s.stores[m.pickVolume()]; m.writable(store) {
			_ = store.Flush(context.Background())
		}
		return
	}
	for _, v := range m.volumes {
		if !m.writable(s.stores[v]) {
			return
		}
	}
	// Numbers may repeat after a failover, as they do between sites that
	// cannot talk; number and time together do not.
	s.newest++
	m.ckpt++
	key := [2]int64{int64(s.newest), checkpointTime(m.ckpt)}
	m.cuts[key] = make(map[journal.VolumeID]journal.Position)
	for _, v := range m.volumes {
		if s.stores[v].write(journal.KindCheckpoint, key[0], key[1]) == nil {
			m.cuts[key][v] = s.stores[v].Tip()
			_ = s.stores[v].Flush(context.Background())
		}
	}
	m.logf("%s takes checkpoint %d", s.name, key[0])
}
