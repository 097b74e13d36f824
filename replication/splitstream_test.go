package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

// connect opens the stream of an engine that sends and has none.
func (m *splitSim) connect(e *splitEngine) {
	peer := m.other(e.site)
	if !e.primary() || e.out != nil || !m.linkUp || !peer.gatewayUp {
		return
	}
	store, err := e.open()
	if err != nil {
		m.fail(err)
	}
	st := &splitStream{from: e, to: peer.engines[e.volume], term: e.orders.term,
		src: &source{group: modelGroup, term: e.orders.term, store: store, codec: m.codec, stats: newVolumeStats(e.volume, clock.Wall{})}}
	hello, err := st.src.hello()
	if err != nil {
		return
	}
	st.up = append(st.up, encode(m, hello))
	e.out = st
	m.live = append(m.live, st)
	m.logf("engine %s/%d connects at term %d", e.site.name, e.volume[0], st.term)
}

// advance moves one stream by one message at one of its parts.
func (m *splitSim) advance() {
	m.live = slices.DeleteFunc(m.live, func(st *splitStream) bool { return st.src == nil && st.repClosed })
	if len(m.live) == 0 {
		return
	}
	m.move(m.live[m.rng.IntN(len(m.live))], m.rng.IntN(5))
}

func (m *splitSim) move(st *splitStream, part int) {
	switch part {
	case 0:
		m.send(st)
	case 1:
		m.passOn(st)
	case 2:
		m.deliver(st)
	case 3:
		m.settleReplica(st)
	case 4:
		m.answer(st)
	}
}

// send lets the sender's side make a message, if it has one.
func (m *splitSim) send(st *splitStream) {
	if st.src == nil || !st.begun {
		return
	}
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
		if msg.GetBatch() != nil {
			m.counts.Batches++
		}
		if msg.GetFork() != nil {
			m.counts.Forks++
		}
		st.up = append(st.up, encode(m, msg))
	}
}

// passOn is the gateway: it routes the first message, then passes on one in
// each direction.
func (m *splitSim) passOn(st *splitStream) {
	if st.cut || !st.to.site.gatewayUp {
		return
	}
	if len(st.up) > 0 && m.linkUp && len(st.passed) < maxPassed && !st.repClosed {
		if !st.routed {
			if volume, err := OpeningVolume(decode[replicationv1.SourceMessage](m, st.up[0])); err != nil || volume != st.to.volume {
				m.fail(fmt.Errorf("stream of volume %s opens with %s: %w", st.to.volume, volume, err))
			}
			if !st.to.up {
				m.counts.NoEngine++
				m.endReplica(st, status.Error(codes.Unavailable, "volume has no engine"))
				return
			}
			st.routed = true
		}
		st.passed = append(st.passed, st.up[0])
		st.up = st.up[1:]
	}
	if len(st.back) > 0 && m.linkUp {
		st.returned = append(st.returned, st.back[0])
		st.back = st.back[1:]
	}
}

// deliver hands the engine the oldest message.
func (m *splitSim) deliver(st *splitStream) {
	if st.repClosed || len(st.passed) == 0 || !st.to.up {
		return
	}
	msg := decode[replicationv1.SourceMessage](m, st.passed[0])
	st.passed = st.passed[1:]
	m.watched(st, func() error {
		if st.rep == nil {
			return m.admit(st, msg)
		}
		return st.pass.under(func() error { return st.rep.handle(context.Background(), msg) })
	})
}

// watched runs what may move a replica's store, and fails when it did although
// the stream's term was over.
func (m *splitSim) watched(st *splitStream, act func() error) {
	e := st.to
	var before journal.Position
	old := e.store
	if old != nil {
		before = old.Tip()
	}
	err := act()
	// A poisoned store that is opened again stands elsewhere by itself.
	moved := e.store != old && e.store != nil && (old == nil || old.failure() == nil) || e.store == old && old != nil && old.Tip() != before
	switch {
	case moved && st.term < e.site.fenced:
		m.fail(fmt.Errorf("site %s is fenced at term %d, and a stream of term %d moved volume %d from %s to %s", e.site.name, e.site.fenced, st.term, e.volume[0], before, e.store.Tip()))
	case moved && st.term < e.highest:
		m.fail(fmt.Errorf("volume %d of site %s follows term %d, and a stream of term %d moved it", e.volume[0], e.site.name, e.highest, st.term))
	case moved && e.orders.role == group.RolePrimary:
		m.fail(fmt.Errorf("volume %d of site %s is primary, and a stream of term %d moved it", e.volume[0], e.site.name, st.term))
	case moved:
		e.highest = st.term
	case st.term < e.site.fenced && st.pass != nil:
		m.counts.LateAfterFence++
	}
	if err != nil {
		m.closeReplica(st, err)
	}
}

func (m *splitSim) admit(st *splitStream, msg *replicationv1.SourceMessage) error {
	ctx := context.Background()
	admission := &st.to.server.server.admission
	pass, rep, err := admission.admit(ctx, st.from.site.name, msg.GetHello())
	if err != nil {
		return err
	}
	st.pass, st.rep = pass, rep
	var reply *replicationv1.ReplicaMessage
	err = pass.under(func() (err error) {
		reply, err = rep.open(ctx, admission.creditBytes)
		return err
	})
	if err != nil {
		return err
	}
	st.back = append(st.back, encode(m, reply))
	return nil
}

// settleReplica makes the replica's side durable and acknowledge.
func (m *splitSim) settleReplica(st *splitStream) {
	if st.rep == nil || st.repClosed || !st.to.up {
		return
	}
	var ack *replicationv1.ReplicaMessage
	m.watched(st, func() error {
		return st.pass.under(func() (err error) {
			ack, err = st.rep.settle(context.Background())
			return err
		})
	})
	if ack == nil {
		return
	}
	m.counts.Acks++
	if durable := decodePosition(ack.GetAck().GetDurable()); durable != (journal.Position{}) {
		st.to.acked = &durable
		m.logf("engine %s/%d holds %s", st.to.site.name, st.to.volume[0], durable)
	}
	st.back = append(st.back, encode(m, ack))
}

// answer hands the sender's side the oldest message, or the final status.
func (m *splitSim) answer(st *splitStream) {
	if st.src == nil || !m.linkUp {
		return
	}
	if len(st.returned) == 0 {
		if st.final != nil && (len(st.back) == 0 || st.cut) {
			m.closeSource(st, st.final)
		}
		return
	}
	msg := decode[replicationv1.ReplicaMessage](m, st.returned[0])
	st.returned = st.returned[1:]
	var err error
	if !st.begun {
		err = st.src.begin(msg.GetWelcome(), 1<<20)
		st.begun = err == nil
	} else {
		err = st.src.acknowledge(msg.GetAck())
	}
	if err == nil {
		return
	}
	if !errors.Is(err, journal.ErrDiverged) && !errors.Is(err, journal.ErrPoisoned) && !errors.Is(err, journal.ErrHorizon) && !errors.Is(err, journal.ErrClosed) {
		m.fail(fmt.Errorf("sender refuses an honest answer: %w", err))
	}
	m.closeSource(st, err)
}

// closeSource ends the sender's side. What the gateway has passed on already may
// still arrive.
func (m *splitSim) closeSource(st *splitStream, cause error) {
	if st.src == nil {
		return
	}
	st.src.close()
	st.src = nil
	st.up = nil
	if st.from.out == st {
		st.from.out = nil
	}
	if errors.Is(cause, ErrStaleTerm) {
		m.counts.StaleStreams++
	}
	if errors.Is(cause, ErrNotAnnounced) {
		m.counts.NotAnnounced++
	}
	m.logf("engine %s/%d closes its stream: %v", st.from.site.name, st.from.volume[0], cause)
}

// closeReplica ends the engine's side with the status that the sender gets.
func (m *splitSim) closeReplica(st *splitStream, cause error) {
	if st.damaged {
		m.counts.Damaged++
	} else if errors.Is(cause, ErrProtocol) || errors.Is(cause, journal.ErrCorrupt) || errors.Is(cause, ErrLimit) || errors.Is(cause, ErrAhead) || errors.Is(cause, journal.ErrGap) {
		m.fail(fmt.Errorf("engine refuses an honest stream: %w", cause))
	}
	if errors.Is(cause, ErrReplaced) {
		m.counts.Replaced++
	}
	m.logf("engine %s/%d ends the stream: %v", st.to.site.name, st.to.volume[0], cause)
	m.endReplica(st, fromStatus(toStatus(cause), st.to.site.name, modelGroup, st.term))
}

func (m *splitSim) endReplica(st *splitStream, final error) {
	if st.repClosed {
		return
	}
	if st.pass != nil {
		st.pass.leave()
	}
	st.repClosed, st.final, st.passed = true, final, nil
}

// cutStream breaks a stream at the gateway; each side may learn of it late.
func (m *splitSim) cutStream(st *splitStream) {
	st.cut, st.up, st.back = true, nil, nil
	lost := errors.New("connection lost")
	if st.final == nil {
		st.final = lost
	}
	if m.oneIn(2) {
		m.closeSource(st, lost)
	}
	if m.oneIn(2) {
		m.endReplica(st, lost)
	}
}
