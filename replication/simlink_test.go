package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

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
		store.watch(func() error {
			if s.held.Role == group.RolePrimary {
				m.fail(fmt.Errorf("site %s is primary and was given records of volume %d", s.name, v[0]))
			}
			return nil
		})
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

// failer is a simulation that can be ended.
type failer interface{ fail(err error) }

func encode(m failer, msg proto.Message) []byte {
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
}](m failer, b []byte) P {
	msg := P(new(T))
	if err := proto.Unmarshal(b, msg); err != nil {
		m.fail(err)
	}
	return msg
}

func transfer[M proto.Message](m failer, from, to M) M {
	if err := proto.Unmarshal(encode(m, from), to); err != nil {
		m.fail(err)
	}
	return to
}
