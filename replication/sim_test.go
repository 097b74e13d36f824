package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

// Size of the simulation: within a minute by default;
// LOCKSTEP_SIM_SEEDS runs more seeds, LOCKSTEP_SIM_SEED a single one.
const (
	simSeeds = 300
	simSteps = 4000
)

// found are seeds that once failed, and what they showed.
var found = []struct {
	name string
	seed uint64
}{
	{"fork to a timeline that the replica knows", 1055},
}

func TestSimulation(t *testing.T) {
	if text := os.Getenv("LOCKSTEP_SIM_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("read LOCKSTEP_SIM_SEED: %v", err)
		}
		simulate(t, seed)
		return
	}
	for _, f := range found {
		t.Run(f.name, func(t *testing.T) { simulate(t, f.seed) })
	}
	seeds := uint64(simSeeds)
	if text := os.Getenv("LOCKSTEP_SIM_SEEDS"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("read LOCKSTEP_SIM_SEEDS: %v", err)
		}
		seeds = n
	}
	var total simCounts
	for seed := uint64(1); seed <= seeds && !t.Failed(); seed++ {
		total.add(simulate(t, seed))
	}
	t.Logf("%d seeds of %d steps: %+v", seeds, simSteps, total)
	total.demandAll(t)
}

// simCounts shows that the simulation really came to what it is meant to try.
type simCounts struct {
	Acks, Batches, Forks, Images, ResumedImages, Crashes, DiskFaults, Failovers, Demotions, Rewinds, Damaged, Replaced, Realigned, PointsChecked int
}

func (c *simCounts) fields() []*int {
	return []*int{&c.Acks, &c.Batches, &c.Forks, &c.Images, &c.ResumedImages, &c.Crashes, &c.DiskFaults, &c.Failovers, &c.Demotions, &c.Rewinds, &c.Damaged, &c.Replaced, &c.Realigned, &c.PointsChecked}
}

func (c *simCounts) add(other simCounts) {
	from := other.fields()
	for i, to := range c.fields() {
		*to += *from[i]
	}
}

func (c *simCounts) demandAll(t *testing.T) {
	for i, n := range c.fields() {
		if *n == 0 {
			t.Errorf("the simulation never came to case %d of %+v", i, *c)
		}
	}
}

// simStream is one connection of one volume. Messages travel encoded. What is
// under way when a side is gone may still arrive at the other, also after a
// newer stream was opened.
type simStream struct {
	from, to  *simSite
	volume    journal.VolumeID
	src       *source // nil when the sender's side is closed
	begun     bool
	rep       *replica // nil before hello is handled and when closed
	pass      *pass
	repClosed bool
	toReplica [][]byte
	toSource  [][]byte
	final     error // status that the sender gets behind toSource
	damaged   bool  // by a fault of the link; must end in an error
}

// simSite is a site with what it loses in a crash.
type simSite struct {
	*modelSite
	up        bool
	admission *admission
	announced bool // the peer accepted the present term
	streams   map[journal.VolumeID]*simStream
	acked     map[journal.VolumeID]journal.Position // newest that it acknowledged as replica
	undo      map[journal.VolumeID]journal.Position // where a rewind started
}

type sim struct {
	t        *testing.T
	seed     uint64
	rng      *rand.Rand
	sites    [2]*simSite
	volumes  []journal.VolumeID
	linkUp   bool
	live     []*simStream
	timeline uint64
	ckpt     int64
	cuts     map[[2]int64]map[journal.VolumeID]journal.Position
	counts   simCounts
	trace    []string
	codec    *codec
	calm     bool // no more faults
}

func simulate(t *testing.T, seed uint64) simCounts {
	t.Helper()
	m := newSim(t, seed)
	for range simSteps {
		m.step()
		if err := m.check(); err != nil {
			m.fail(err)
		}
	}
	m.settle()
	return m.counts
}

func newSim(t *testing.T, seed uint64) *sim {
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
		s.reopen = func(old *modelStore) *modelStore { return old.crash(m.rng, m.newTimeline()) }
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
	s.admission = &admission{site: s.name, groups: s, stores: s, gate: newGate(), images: newPartialImages(), codec: m.codec,
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
func (m *sim) writable(s *modelStore) bool  { return s != nil && s.broken == nil }

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
		m.logf("%s writes %s", s.name, store.tip())
	}
}

// flushOrCheckpoint flushes one member, or stamps a checkpoint into all.
func (m *sim) flushOrCheckpoint(s *simSite) {
	if !m.isPrimary(s) {
		return
	}
	if m.oneIn(2) {
		if store := s.stores[m.pickVolume()]; m.writable(store) {
			_ = store.flush()
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
			m.cuts[key][v] = s.stores[v].tip()
			_ = s.stores[v].flush()
		}
	}
	m.logf("%s takes checkpoint %d", s.name, key[0])
}

func (m *sim) announce(s *simSite) {
	peer := m.other(s)
	if !m.isPrimary(s) || !peer.up || !m.linkUp {
		return
	}
	ann, err := s.Announcement(context.Background(), modelGroup)
	if err != nil {
		m.fail(err)
	}
	req := transfer(m, encodeAnnouncement(ann), &replicationv1.AnnounceRequest{})
	before := peer.held
	_, err = peer.admission.announce(context.Background(), s.name, req)
	if peer.held.Term < before.Term {
		m.fail(fmt.Errorf("term of %s fell from %d to %d", peer.name, before.Term, peer.held.Term))
	}
	err = fromStatus(toStatus(err), peer.name, modelGroup, ann.Term)
	s.announced = err == nil
	m.logf("%s announces term %d: %v", s.name, ann.Term, err)
	if errors.Is(err, ErrStaleTerm) {
		m.demote(s, err)
	}
}

func (m *sim) demote(s *simSite, refusal error) {
	demoted, err := demoteIfStale(context.Background(), s, modelGroup, refusal)
	if err != nil {
		m.fail(err)
	}
	if demoted {
		m.counts.Demotions++
		m.endSender(s, errors.New("demoted"))
	}
}

func (m *sim) endSender(s *simSite, cause error) {
	for _, st := range s.streams {
		m.closeSource(st, cause)
	}
	s.announced = false
}

// connect opens a stream for a member that has none.
func (m *sim) connect(s *simSite) {
	v := m.pickVolume()
	peer := m.other(s)
	if !m.isPrimary(s) || !s.announced || !m.linkUp || !peer.up || s.streams[v] != nil {
		return
	}
	store, err := s.open(v)
	if err != nil {
		m.fail(err)
	}
	st := &simStream{from: s, to: peer, volume: v, src: &source{group: modelGroup, term: s.held.Term, store: store,
		codec: m.codec, stats: newVolumeStats(v, clock.Wall{})}}
	hello, err := st.src.hello()
	if err != nil {
		return
	}
	st.toReplica = append(st.toReplica, encode(m, hello))
	s.streams[v] = st
	m.live = append(m.live, st)
	m.logf("%s connects volume %d", s.name, v[0])
}

// advance moves one stream by one message.
func (m *sim) advance() {
	m.live = slices.DeleteFunc(m.live, func(st *simStream) bool { return st.src == nil && st.repClosed })
	if len(m.live) == 0 {
		return
	}
	st := m.live[m.rng.IntN(len(m.live))]
	switch m.rng.IntN(4) {
	case 0:
		m.send(st)
	case 1:
		m.deliver(st)
	case 2:
		m.settleStream(st)
	case 3:
		m.answer(st)
	}
}

// send lets the sender's side make a message, if it has one.
func (m *sim) send(st *simStream) {
	if st.src == nil || !st.begun {
		return
	}
	// The context has ended, so that Next returns instead of waiting.
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	msg, err := st.src.next(ended)
	if err := st.src.credit.verify(); err != nil {
		m.fail(err)
	}
	switch {
	case errors.Is(err, errNoCredit), errors.Is(err, context.Canceled):
	case err != nil:
		m.closeSource(st, err)
	default:
		m.countMessage(msg)
		st.toReplica = append(st.toReplica, encode(m, msg))
	}
}

// verify checks the bound on what is in flight.
func (c *credit) verify() error {
	loaded := 0
	for _, ch := range c.flight {
		if ch.rawBytes > 0 {
			loaded++
		}
	}
	if c.used > c.limit && loaded > 1 || len(c.flight) > maxUnacked {
		return fmt.Errorf("%d bytes in %d messages in flight, want at most %d", c.used, loaded, c.limit)
	}
	return nil
}

func (m *sim) countMessage(msg *replicationv1.SourceMessage) {
	switch {
	case msg.GetBatch() != nil:
		m.counts.Batches++
	case msg.GetFork() != nil:
		m.counts.Forks++
	case msg.GetImageStart().GetFromOffset() > 0:
		m.counts.ResumedImages++
	}
}

// deliver hands the replica's side the oldest message.
func (m *sim) deliver(st *simStream) {
	if st.repClosed || len(st.toReplica) == 0 || !st.to.up {
		return
	}
	msg := decode[replicationv1.SourceMessage](m, st.toReplica[0])
	st.toReplica = st.toReplica[1:]
	ctx := context.Background()
	if st.rep == nil {
		m.admit(st, msg)
		return
	}
	if err := st.pass.under(func() error { return st.rep.handle(ctx, msg) }); err != nil {
		m.closeReplica(st, err)
	}
}

func (m *sim) admit(st *simStream, msg *replicationv1.SourceMessage) {
	ctx := context.Background()
	pass, rep, err := st.to.admission.admit(ctx, st.from.name, msg.GetHello())
	if err != nil {
		m.closeReplica(st, err)
		return
	}
	st.pass, st.rep = pass, rep
	var reply *replicationv1.ReplicaMessage
	err = pass.under(func() (err error) {
		reply, err = rep.open(ctx, st.to.admission.creditBytes)
		return err
	})
	if err != nil {
		m.closeReplica(st, err)
		return
	}
	m.guard(st.to, st.volume)
	st.toSource = append(st.toSource, encode(m, reply))
}

// guard makes a store refuse records while its site is primary: what a fence
// must make impossible.
func (m *sim) guard(s *simSite, v journal.VolumeID) {
	if store := s.stores[v]; store != nil {
		store.guard = func() error {
			if s.held.Role == group.RolePrimary {
				m.fail(fmt.Errorf("site %s is primary and was given records of volume %d", s.name, v[0]))
			}
			return nil
		}
	}
}

// settleStream makes the replica's side durable and acknowledge.
func (m *sim) settleStream(st *simStream) {
	if st.rep == nil || st.repClosed || !st.to.up {
		return
	}
	var ack *replicationv1.ReplicaMessage
	err := st.pass.under(func() (err error) {
		ack, err = st.rep.settle(context.Background())
		return err
	})
	if err != nil {
		m.closeReplica(st, err)
		return
	}
	if ack == nil {
		return
	}
	m.counts.Acks++
	m.guard(st.to, st.volume)
	if durable := decodePosition(ack.GetAck().GetDurable()); durable != (journal.Position{}) {
		st.to.acked[st.volume] = durable
		m.logf("%s holds volume %d at %s", st.to.name, st.volume[0], durable)
	}
	st.toSource = append(st.toSource, encode(m, ack))
}

// answer hands the sender's side the oldest message, or the final status.
func (m *sim) answer(st *simStream) {
	if st.src == nil {
		return
	}
	if len(st.toSource) == 0 {
		if st.final != nil {
			m.closeSource(st, st.final)
		}
		return
	}
	msg := decode[replicationv1.ReplicaMessage](m, st.toSource[0])
	st.toSource = st.toSource[1:]
	var err error
	if !st.begun {
		err = st.src.begin(msg.GetWelcome(), 1<<20)
		st.begun = err == nil
	} else {
		err = st.src.acknowledge(msg.GetAck())
	}
	if err != nil {
		if !errors.Is(err, journal.ErrDiverged) && !errors.Is(err, journal.ErrPoisoned) && !errors.Is(err, journal.ErrHorizon) && !errors.Is(err, journal.ErrClosed) {
			m.fail(fmt.Errorf("sender refuses an honest answer: %w", err))
		}
		m.closeSource(st, err)
	}
}

func (m *sim) closeSource(st *simStream, cause error) {
	if st.src == nil {
		return
	}
	st.src.close()
	st.src = nil
	if st.from.streams[st.volume] == st {
		delete(st.from.streams, st.volume)
	}
	m.logf("%s closes volume %d: %v", st.from.name, st.volume[0], cause)
	if errors.Is(cause, ErrStaleTerm) || errors.Is(cause, ErrNotAnnounced) {
		st.from.announced = false
	}
}

func (m *sim) closeReplica(st *simStream, cause error) {
	if st.pass != nil {
		st.pass.leave()
	}
	if st.damaged {
		m.counts.Damaged++
	} else if errors.Is(cause, ErrProtocol) || errors.Is(cause, journal.ErrCorrupt) || errors.Is(cause, ErrLimit) || errors.Is(cause, ErrAhead) || errors.Is(cause, journal.ErrGap) {
		m.fail(fmt.Errorf("replica refuses an honest stream: %w", cause))
	}
	if errors.Is(cause, ErrReplaced) {
		m.counts.Replaced++
	}
	if errors.Is(cause, ErrRealign) {
		m.counts.Realigned++
	}
	st.repClosed = true
	st.final = fromStatus(toStatus(cause), st.to.name, modelGroup, 0)
	m.logf("%s ends volume %d: %v", st.to.name, st.volume[0], cause)
}

// cut breaks a connection; each side may learn of it late.
func (m *sim) cut() {
	if len(m.live) == 0 {
		return
	}
	st := m.live[m.rng.IntN(len(m.live))]
	if m.oneIn(2) {
		m.closeSource(st, errors.New("connection lost"))
	}
	if m.oneIn(2) {
		st.toReplica = nil
		m.loseReplica(st)
	}
}

func (m *sim) loseReplica(st *simStream) {
	if st.repClosed {
		return
	}
	if st.pass != nil {
		st.pass.leave()
	}
	st.repClosed, st.final = true, errors.New("connection lost")
}

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
	if m.oneIn(2) {
		store.failFlush = true
	} else {
		store.failAppend = true
	}
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
		back[v] = s.stores[v].tip()
		if m.writable(s.stores[v]) {
			err := s.stores[v].Fork(m.newTimeline(), to[v], "rewind")
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
	if acked, ok := s.acked[store.volume]; ok && !path.Contains(acked) || ok && acked.Seq < to.Seq {
		return
	}
	store.trim(to)
	m.logf("%s trims volume %d to %s", s.name, store.volume[0], to)
}

// damage repeats, exchanges or damages messages under way.
func (m *sim) damage() {
	if len(m.live) == 0 {
		return
	}
	st := m.live[m.rng.IntN(len(m.live))]
	if st.repClosed || st.rep == nil || len(st.toReplica) == 0 {
		return
	}
	i := m.rng.IntN(len(st.toReplica))
	switch m.rng.IntN(3) {
	case 0:
		st.toReplica = slices.Insert(st.toReplica, i, st.toReplica[i])
	case 1:
		if i == 0 {
			return
		}
		st.toReplica[i-1], st.toReplica[i] = st.toReplica[i], st.toReplica[i-1]
	case 2:
		msg := decode[replicationv1.SourceMessage](m, st.toReplica[i])
		data := msg.GetBatch().GetData()
		if msg.GetChunk() != nil {
			data = msg.GetChunk().GetData()
		}
		if len(data) == 0 {
			return
		}
		data[m.rng.IntN(len(data))] ^= 1 << m.rng.IntN(8)
		st.toReplica[i] = encode(m, msg)
	}
	st.damaged = true
	m.logf("link damages volume %d", st.volume[0])
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
		at := s.stores[v].tip()
		if point != nil {
			at = point[v]
		}
		if err := s.stores[v].Fork(m.newTimeline(), at, "failover"); err != nil && !errors.Is(err, journal.ErrPoisoned) {
			m.fail(fmt.Errorf("fork at %s: %w", at, err))
		}
	}
	s.acked = make(map[journal.VolumeID]journal.Position)
	s.undo = make(map[journal.VolumeID]journal.Position)
	m.counts.Failovers++
	m.logf("%s is promoted to term %d", s.name, s.held.Term)
}

// check holds after every step.
func (m *sim) check() error {
	for _, s := range m.sites {
		for _, v := range m.volumes {
			store := s.stores[v]
			if store == nil {
				continue
			}
			if err := store.verify(); err != nil {
				return fmt.Errorf("site %s: %w", s.name, err)
			}
			if acked, ok := s.acked[v]; ok && !store.holds(acked) {
				return fmt.Errorf("site %s acknowledged %s of volume %d and does not hold it", s.name, acked, v[0])
			}
		}
	}
	return nil
}

// settle ends all faults and demands that the sites come to the same state.
func (m *sim) settle() {
	m.linkUp = true
	for _, s := range m.sites {
		if !s.up {
			m.boot(s)
		}
		for _, v := range m.volumes {
			if store := s.stores[v]; store != nil {
				store.failAppend, store.failFlush = false, false
				if _, err := s.open(v); err != nil {
					m.fail(err)
				}
			}
		}
	}
	for range 4000 {
		for _, s := range m.sites {
			m.announce(s)
			m.connect(s)
			if m.isPrimary(s) {
				for _, v := range m.volumes {
					_ = s.stores[v].flush()
				}
			}
		}
		for _, st := range slices.Clone(m.live) {
			m.send(st)
			m.deliver(st)
			m.settleStream(st)
			m.answer(st)
			if st.damaged {
				m.closeSource(st, errors.New("connection lost"))
				m.loseReplica(st)
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
		m.t.Logf("site %s: %+v", s.name, s.held)
		for _, v := range m.volumes {
			if st := s.stores[v]; st != nil {
				m.t.Logf("  volume %d: path %v durable %v", v[0], st.Path(), st.Durable())
			}
		}
	}
	m.fail(errors.New("the sites do not come to the same state"))
}

// converged reports whether one site is primary and the other holds exactly
// the same.
func (m *sim) converged() bool {
	for _, s := range m.sites {
		peer := m.other(s)
		if !m.isPrimary(s) || peer.held.Role != group.RoleReplica {
			continue
		}
		same := true
		for _, v := range m.volumes {
			a, b := s.stores[v], peer.stores[v]
			same = same && b != nil && a.sum == b.sum && s.streams[v] != nil && s.streams[v].begun && len(s.streams[v].src.credit.flight) == 0
		}
		if same {
			return true
		}
	}
	return false
}

func encode(m *sim, msg proto.Message) []byte {
	b, err := proto.Marshal(msg)
	if err != nil {
		m.fail(err)
	}
	return b
}

// decode reads a message; T is the message's struct type.
func decode[T any, P interface {
	*T
	proto.Message
}](m *sim, b []byte) P {
	msg := P(new(T))
	if err := proto.Unmarshal(b, msg); err != nil {
		m.fail(err)
	}
	return msg
}

func transfer[M proto.Message](m *sim, from, to M) M {
	if err := proto.Unmarshal(encode(m, from), to); err != nil {
		m.fail(err)
	}
	return to
}
