package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// splitSim is the simulated world of two sites whose roles are processes of
// their own: at each a controller, a gateway, and an engine for each volume.
// What the controller holds durably is apart from what its engines hold, and
// the two meet in messages that are late, lost and out of order.
type splitSim struct {
	t        *testing.T
	seed     uint64
	rng      *rand.Rand
	sites    [2]*splitSite
	volumes  []journal.VolumeID
	linkUp   bool
	live     []*splitStream
	ordered  []orderUnderWay
	lifts    []liftUnderWay
	timeline uint64
	ckpt     int64
	// cuts is the oracle of checkpoints, by number and time.
	cuts   map[[2]int64]map[journal.VolumeID]journal.Position
	counts splitCounts
	trace  []string
	codec  *codec
}

// splitSite is one site.
type splitSite struct {
	name      string
	ctl       *splitController
	gatewayUp bool
	engines   map[journal.VolumeID]*splitEngine
	make      storeMaker
	// fenced is the oracle of promotions: the highest term at which every
	// engine of the site has answered a fence that was not given up. kept is
	// what it was before the promotion under way.
	fenced, kept group.Term
}

// splitController is a controller. It implements Groups.
type splitController struct {
	name     string
	up       bool
	held     Standing // durable, as are all up to revision
	known    bool
	members  []Member
	newest   journal.CheckpointNumber
	op       *promotion // nil: none is under way
	tried    group.Term // of the newest promotion that was given up
	revision uint64

	server  *AnnounceServer
	release func() // of the hold during a promotion
}

// promotion is a failover under way: intended, then fenced, then forked. It is
// durable at each step and goes on after a restart.
type promotion struct {
	term    group.Term
	fenced  map[journal.VolumeID]bool
	targets map[journal.VolumeID]journal.Position // nil until all are fenced
	forked  map[journal.VolumeID]bool
}

// order is what a controller tells an engine.
type order struct {
	term     group.Term
	revision uint64
	role     group.Role
	source   string
}

// orderUnderWay is an order on its way.
type orderUnderWay struct {
	to *splitEngine
	order
}

// liftUnderWay takes back the fences of promotions that were given up: those up
// to term become one at keep, which the controller holds.
type liftUnderWay struct {
	to         *splitEngine
	term, keep group.Term
}

// splitEngine is an engine. It implements Orders and ReplicaStores.
type splitEngine struct {
	m      *splitSim
	site   *splitSite
	volume journal.VolumeID
	up     bool
	orders order      // durable
	floor  group.Term // durable; of the newest fence
	store  siteStore  // nil: nothing was filled yet

	server *StreamServer
	out    *splitStream // the stream that it sends; nil: none
	acked  *journal.Position
	// highest is the oracle of terms: the highest that records were taken of.
	highest group.Term
}

// splitStream is one volume's stream through the gateway of the other site.
// Messages travel encoded; what is under way when a side is gone may still
// arrive, also after a newer stream was opened.
type splitStream struct {
	from, to  *splitEngine
	term      group.Term
	src       *source // nil when the sender's side is closed
	begun     bool
	routed    bool // the gateway has found the engine
	cut       bool // the gateway no longer passes anything on
	rep       *replica
	pass      *pass
	repClosed bool
	// up is what the gateway has not read yet, passed what the engine has
	// not; back is answers on their way, returned those behind the gateway.
	up, passed, back, returned [][]byte
	final                      error // status behind back
	damaged                    bool
}

// maxPassed is how many messages the gateway passes on ahead of the engine.
const maxPassed = 2

// splitCounts shows that the simulation came to what it is meant to try.
type splitCounts struct {
	Acks, Batches, Forks, Images, EngineCrashes, ControllerCrashes, GatewayCrashes, DiskFaults, Failovers, ResumedFailovers, GivenUp, LateLifts, Demotions,
	Rewinds, Damaged, Replaced, StaleOrders, StaleStreams, NotAnnounced, NoEngine, HeldAnnouncements, LateAfterFence, Points int
}

func (c *splitCounts) fields() []*int {
	return []*int{&c.Acks, &c.Batches, &c.Forks, &c.Images, &c.EngineCrashes, &c.ControllerCrashes, &c.GatewayCrashes, &c.DiskFaults, &c.Failovers,
		&c.ResumedFailovers, &c.GivenUp, &c.LateLifts, &c.Demotions, &c.Rewinds, &c.Damaged, &c.Replaced, &c.StaleOrders, &c.StaleStreams, &c.NotAnnounced, &c.NoEngine,
		&c.HeldAnnouncements, &c.LateAfterFence, &c.Points}
}

func newSplitSim(t *testing.T, seed uint64, stores makeStores) *splitSim {
	c, err := newCodec(seed%2 == 0)
	if err != nil {
		t.Fatal(err)
	}
	m := &splitSim{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), linkUp: true, timeline: 100, codec: c,
		volumes: []journal.VolumeID{{1}, {2}}, cuts: make(map[[2]int64]map[journal.VolumeID]journal.Position)}
	histories := map[journal.VolumeID]*history{}
	for _, v := range m.volumes {
		histories[v] = newHistory()
	}
	for i, name := range []string{"a", "b"} {
		s := &splitSite{name: name, ctl: &splitController{name: name}, gatewayUp: true, engines: make(map[journal.VolumeID]*splitEngine),
			make: stores(histories, m.rng)}
		for _, v := range m.volumes {
			s.engines[v] = &splitEngine{m: m, site: s, volume: v}
			m.bootEngine(s.engines[v])
		}
		m.sites[i] = s
		m.bootController(s)
	}
	primary := m.sites[0]
	primary.ctl.held, primary.ctl.known = Standing{Role: group.RolePrimary, Term: 1}, true
	for i, v := range m.volumes {
		primary.ctl.members = append(primary.ctl.members, Member{Volume: v, Name: "volume", SizeBytes: modelBytes,
			Attributes: map[string]string{AttributeName: "claim", "later": "kept"}})
		primary.engines[v].store = primary.make.create(v, journal.TimelineID(i+1))
	}
	return m
}

// peerName carries the peer's name in a simulated call.
type peerName struct{}

func simulatedPeer(ctx context.Context) (string, error) {
	name, ok := ctx.Value(peerName{}).(string)
	if !ok {
		return "", errors.New("call has no peer")
	}
	return name, nil
}

func (m *splitSim) bootController(s *splitSite) {
	var err error
	s.ctl.server, err = NewAnnounceServer(AnnounceServerConfig{Site: s.name, Groups: s.ctl, Peer: simulatedPeer})
	if err != nil {
		m.t.Fatal(err)
	}
	s.ctl.up, s.ctl.release = true, nil
	if s.ctl.op != nil {
		m.counts.ResumedFailovers++
		m.hold(s)
	}
}

func (m *splitSim) hold(s *splitSite) {
	release, err := s.ctl.server.Hold(context.Background(), modelGroup)
	if err != nil {
		m.fail(err)
	}
	s.ctl.release = release
}

func (m *splitSim) bootEngine(e *splitEngine) {
	var err error
	e.server, err = NewStreamServer(StreamServerConfig{Site: e.site.name, Volume: e.volume, Orders: e, Stores: e, Peer: simulatedPeer,
		CreditBytes: 3000, Log: quiet()})
	if err != nil {
		m.t.Fatal(err)
	}
	e.up = true
}

func (m *splitSim) fail(err error) {
	for _, line := range m.trace[max(0, len(m.trace)-40):] {
		m.t.Log(line)
	}
	m.t.Fatalf("seed %d, step %d: %v (run it with LOCKSTEP_SIM_SEED=%d)", m.seed, len(m.trace), err, m.seed)
}

func (m *splitSim) logf(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
}

func (m *splitSim) newTimeline() journal.TimelineID {
	m.timeline++
	return journal.TimelineID(m.timeline)
}

func (m *splitSim) other(s *splitSite) *splitSite {
	if s == m.sites[0] {
		return m.sites[1]
	}
	return m.sites[0]
}

func (m *splitSim) oneIn(n int) bool             { return m.rng.IntN(n) == 0 }
func (m *splitSim) pickVolume() journal.VolumeID { return m.volumes[m.rng.IntN(len(m.volumes))] }

// Standing implements Groups.
func (c *splitController) Standing(context.Context, string) (Standing, bool, error) {
	return c.held, c.known, nil
}

// Follow implements Groups. The engines learn of it later.
func (c *splitController) Follow(_ context.Context, peer string, a Announcement) error {
	if c.known && (a.Term < c.held.Term || a.Term == c.held.Term && c.held.Role == group.RolePrimary) {
		return &TermError{Kind: ErrStaleTerm, Group: a.Group, Offered: a.Term, Held: c.held.Term, Owner: c.held.Owner(c.name)}
	}
	c.held, c.known = Standing{Role: group.RoleReplica, Term: a.Term, Source: peer}, true
	c.members, c.newest = a.Members, max(c.newest, a.NewestCheckpoint)
	return nil
}

// Recognise implements Groups. There is one group, which has the same members for
// ever.
func (c *splitController) Recognise(context.Context, string, Announcement) error { return nil }

// Ended implements Groups.
func (c *splitController) Ended(context.Context, string, string, group.Term) error {
	return errors.New("the group of the simulation does not end")
}

// Demote implements Groups.
func (c *splitController) Demote(_ context.Context, _ string, held group.Term, owner string) error {
	if held > c.held.Term {
		c.held = Standing{Role: group.RoleReplica, Term: held, Source: owner}
	}
	return nil
}

// Standing implements Orders.
func (e *splitEngine) Standing(context.Context, string) (Standing, bool, error) {
	held := Standing{Role: e.orders.role, Term: e.orders.term, Source: e.orders.source}
	return held.Fenced(e.floor), e.orders.term > 0 || e.floor > 0, nil
}

// Fence implements Orders.
func (e *splitEngine) Fence(_ context.Context, term group.Term) error {
	e.floor = max(e.floor, term)
	return nil
}

// primary reports whether the engine's orders let it take changes and send.
func (e *splitEngine) primary() bool {
	return e.up && e.orders.role == group.RolePrimary && e.orders.term > 0 && e.floor <= e.orders.term
}

// open returns the store, recovered if it was poisoned.
func (e *splitEngine) open() (siteStore, error) {
	if e.store == nil {
		return nil, ErrNoReplica
	}
	if e.store.failure() != nil {
		e.store = e.store.crash(e.m.rng, e.m.newTimeline())
	}
	return e.store, nil
}

// Replica implements ReplicaStores.
func (e *splitEngine) Replica(context.Context, string, journal.VolumeID) (ReplicaStore, error) {
	store, err := e.open()
	if err != nil {
		return nil, err
	}
	return store, nil
}

// Import implements ReplicaStores.
func (e *splitEngine) Import(_ context.Context, _ string, spec ImageSpec) (Import, error) {
	filler, err := e.site.make.fill(spec)
	if err != nil {
		return nil, err
	}
	return &splitImport{filler, e}, nil
}

// splitImport puts the filled store in the old one's place.
type splitImport struct {
	storeFiller
	engine *splitEngine
}

func (im *splitImport) Commit(context.Context) (ReplicaStore, error) {
	store, err := im.finish()
	if err != nil {
		return nil, err
	}
	im.engine.store, im.engine.acked = store, nil
	im.engine.m.counts.Images++
	return store, nil
}
