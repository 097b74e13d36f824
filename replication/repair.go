package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

const (
	// repairEvery is the time between two calls of Repair for a volume of which
	// neither side is known to be damaged. A replica's damage waits for it.
	repairEvery = 30 * time.Second
	// repairTimeout bounds one call; the other side may have to read a segment.
	repairTimeout = 20 * time.Second
)

// Repairable is a store that can be repaired, and can help another one of its volume;
// *journal.Store is one. A SourceStore or ReplicaStore that is none neither asks
// nor answers. Methods may be called concurrently, also with Close of the store,
// which they then find closed.
type Repairable interface {
	// RepairWanted has a token when there is something new to ask.
	RepairWanted() <-chan struct{}
	// NextRepair returns what is to be asked next; ok is false when there is nothing.
	NextRepair(ctx context.Context) (q journal.RepairQuestion, ok bool, err error)
	// AnswerRepair tells what the store has of what another one has damaged.
	AnswerRepair(ctx context.Context, q journal.RepairQuestion) (journal.RepairAnswer, error)
	// TakeRepair repairs with an answer, if the store proves it; journal.ErrCorrupt
	// if it disproves it.
	TakeRepair(ctx context.Context, q journal.RepairQuestion, a journal.RepairAnswer) error
	// PeerAnswers tells the store whether its questions are answered now.
	PeerAnswers(answers bool)
}

// repairs is the source's side of a volume's repairs: it calls, as long as Run of the
// VolumeSender runs.
func (v *VolumeSender) repairs(ctx context.Context) {
	var asked *journal.RepairQuestion // by the replica, in its last response
	var store Repairable
	defer func() {
		if store != nil {
			store.PeerAnswers(false)
		}
	}()
	for ctx.Err() == nil {
		v.mu.Lock()
		opened := v.store
		v.mu.Unlock()
		store, _ = opened.(Repairable)
		pause, wanted := v.nextRepair(), (<-chan struct{})(nil)
		if opened == nil {
			pause = maxBackoff
		}
		if store != nil {
			more, err := v.repair(ctx, store, &asked)
			store.PeerAnswers(err == nil)
			switch {
			case err == nil && more:
				continue
			case err == nil:
				wanted = store.RepairWanted()
			case ctx.Err() == nil:
				v.cfg.Log.Debug("asking for repairs failed", "group", v.cfg.Group, "volume", v.cfg.Volume, "peer", v.cfg.Peer, "error", err)
			}
		}
		if sleep(ctx, v.cfg.Clock, pause, wanted) != nil {
			return
		}
	}
}

// nextRepair is the pause before the next call, less up to a half of it at random,
// so that the volumes of a site do not all call at once.
func (v *VolumeSender) nextRepair() time.Duration {
	return repairEvery/2 + time.Duration(v.cfg.Random()*float64(repairEvery/2))
}

// repair makes one call; more is true when another one is to follow at once. asked
// is what the replica asked in the call before, and becomes what it asks in this one.
func (v *VolumeSender) repair(ctx context.Context, store Repairable, asked **journal.RepairQuestion) (more bool, err error) {
	req := &replicationv1.RepairRequest{Version: ProtocolVersion, Group: v.cfg.Group, Term: uint64(v.cfg.Term), Volume: v.cfg.Volume[:]}
	if q := *asked; q != nil {
		*asked = nil
		if req.Answer, err = answer(ctx, store, *q); err != nil {
			return false, err
		}
	}
	q, ask, err := store.NextRepair(ctx)
	if err != nil {
		return false, fmt.Errorf("look for damage of volume %s: %w", v.cfg.Volume, err)
	}
	if ask {
		req.Question = encodeQuestion(q)
	}
	if err := v.throttle(ctx, len(req.GetAnswer().GetData())); err != nil {
		return false, err
	}
	resp, err := v.callRepair(ctx, req)
	if err != nil {
		return false, v.refusal(err)
	}
	if ask {
		if err := v.take(ctx, store, req.Question, resp.GetAnswer()); err != nil {
			return false, err
		}
	}
	if m := resp.GetQuestion(); m != nil {
		q, err := decodeQuestion(m)
		if err != nil {
			return false, err
		}
		*asked = &q
	}
	return ask || *asked != nil, nil
}

func (v *VolumeSender) callRepair(ctx context.Context, req *replicationv1.RepairRequest) (*replicationv1.RepairResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	return v.client.Repair(ctx, req)
}

func (v *VolumeSender) take(ctx context.Context, store Repairable, asked *replicationv1.RepairQuestion, m *replicationv1.RepairAnswer) error {
	if m == nil || !proto.Equal(asked, m.GetQuestion()) {
		return fmt.Errorf("peer answers what was not asked: %w", ErrProtocol)
	}
	err := takeAnswer(ctx, store, m)
	if errors.Is(err, journal.ErrCorrupt) {
		v.cfg.Log.Warn("answer of the peer does not repair what is damaged", "group", v.cfg.Group, "volume", v.cfg.Volume, "peer", v.cfg.Peer, "error", err)
		return nil
	}
	return err
}

// repair takes one call at the replica's side.
func (a *admission) repair(ctx context.Context, peer string, req *replicationv1.RepairRequest) (resp *replicationv1.RepairResponse, refused, err error) {
	volume, err := decodeVolume(req.GetVolume())
	if err := errors.Join(checkVersion(req.GetVersion()), checkGroup(req.GetGroup(), req.GetTerm()), err); err != nil {
		return nil, nil, err
	}
	if !a.only.IsZero() && volume != a.only {
		return nil, nil, fmt.Errorf("volume %s is repaired by the engine of volume %s: %w", volume, a.only, ErrUnknownMember)
	}
	store, err := a.repairable(ctx, peer, req.GetGroup(), group.Term(req.GetTerm()), volume)
	if err != nil {
		return nil, nil, err
	}
	resp = &replicationv1.RepairResponse{Version: ProtocolVersion}
	if store == nil {
		if q := req.GetQuestion(); q != nil {
			resp.Answer = &replicationv1.RepairAnswer{Question: q, Lacking: replicationv1.RepairAnswer_LACK_NO_STORE}
		}
		return resp, nil, nil
	}
	if m := req.GetAnswer(); m != nil {
		if refused = takeAnswer(ctx, store, m); refused != nil && !errors.Is(refused, journal.ErrCorrupt) {
			return nil, nil, refused
		}
	}
	if m := req.GetQuestion(); m != nil {
		q, err := decodeQuestion(m)
		if err != nil {
			return nil, nil, err
		}
		if resp.Answer, err = answer(ctx, store, q); err != nil {
			return nil, nil, err
		}
	}
	q, ask, err := store.NextRepair(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("look for damage of volume %s: %w", volume, err)
	}
	if ask {
		resp.Question = encodeQuestion(q)
	}
	return resp, refused, nil
}

// repairable finds the store that a peer may ask and repair: of the group that it
// sends. Nil, and no error, when there is none. Like a stream it is refused while the
// group is fenced or changed; what it then does to the store appends nothing.
func (a *admission) repairable(ctx context.Context, peer, groupName string, term group.Term, volume journal.VolumeID) (Repairable, error) {
	// Asked before as well, so that the gate keeps nothing for a group that is not
	// known.
	if err := a.mayStream(ctx, peer, groupName, term); err != nil {
		return nil, err
	}
	giveBack, err := a.gate.take(ctx, a.door(groupName))
	if err != nil {
		return nil, err
	}
	defer giveBack()
	if err := a.mayStream(ctx, peer, groupName, term); err != nil {
		return nil, err
	}
	store, err := a.stores.Replica(ctx, groupName, volume)
	if errors.Is(err, ErrNoReplica) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open replica of volume %s: %w", volume, err)
	}
	repairable, _ := store.(Repairable)
	return repairable, nil
}

// Repair implements the RPC.
func (s *Server) Repair(ctx context.Context, req *replicationv1.RepairRequest) (*replicationv1.RepairResponse, error) {
	leave, err := s.enter()
	if err != nil {
		return nil, toStatus(err)
	}
	defer leave()
	peer, err := s.peer(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	resp, refused, err := s.admission.repair(ctx, peer, req)
	if refused != nil {
		s.log.Warn("answer of the peer does not repair what is damaged", "group", req.GetGroup(), "peer", peer, "error", refused)
	}
	return resp, toStatus(err)
}

// Repair implements the RPC.
func (s *StreamServer) Repair(ctx context.Context, req *replicationv1.RepairRequest) (*replicationv1.RepairResponse, error) {
	return s.server.Repair(ctx, req)
}

// RepairVolume returns the volume that an encoded RepairRequest names, for whoever
// passes it on.
func RepairVolume(encoded []byte) (journal.VolumeID, error) {
	m := new(replicationv1.RepairRequest)
	if err := proto.Unmarshal(encoded, m); err != nil {
		return journal.VolumeID{}, fmt.Errorf("decode request for a repair: %v: %w", err, ErrProtocol)
	}
	return decodeVolume(m.GetVolume())
}

// answer is what a store has of what the other side asks.
func answer(ctx context.Context, store Repairable, q journal.RepairQuestion) (*replicationv1.RepairAnswer, error) {
	a, err := store.AnswerRepair(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("answer with %s: %w", q, err)
	}
	m := &replicationv1.RepairAnswer{Question: encodeQuestion(q), Data: a.Data, Lacking: replicationv1.RepairAnswer_Lack(a.Lacks)}
	if a.At != (journal.Position{}) {
		m.At = encodePosition(a.At)
	}
	return m, nil
}

func takeAnswer(ctx context.Context, store Repairable, m *replicationv1.RepairAnswer) error {
	q, err := decodeQuestion(m.GetQuestion())
	if err != nil {
		return err
	}
	if n := m.GetLacking(); n < 0 || n > 255 {
		return fmt.Errorf("answer lacks %d: %w", n, ErrProtocol)
	}
	return store.TakeRepair(ctx, q, journal.RepairAnswer{Data: m.GetData(), At: decodePosition(m.GetAt()), Lacks: journal.RepairLack(m.GetLacking())})
}

func encodeQuestion(q journal.RepairQuestion) *replicationv1.RepairQuestion {
	if q.Record != (journal.Position{}) {
		return &replicationv1.RepairQuestion{What: &replicationv1.RepairQuestion_Record{Record: encodePosition(q.Record)}}
	}
	return &replicationv1.RepairQuestion{What: &replicationv1.RepairQuestion_Sectors{
		Sectors: &replicationv1.RepairSectors{Base: encodePosition(q.Base), Offset: q.Offset, Length: q.Length}}}
}

func decodeQuestion(m *replicationv1.RepairQuestion) (q journal.RepairQuestion, err error) {
	switch what := m.GetWhat().(type) {
	case *replicationv1.RepairQuestion_Record:
		q.Record = decodePosition(what.Record)
		if q.Record.Timeline == 0 || q.Record.Seq == 0 {
			return q, fmt.Errorf("question of record %s: %w", q.Record, ErrProtocol)
		}
	case *replicationv1.RepairQuestion_Sectors:
		s := what.Sectors
		q = journal.RepairQuestion{Base: decodePosition(s.GetBase()), Offset: s.GetOffset(), Length: s.GetLength()}
		if q.Length <= 0 || q.Length > MaxChunkBytes || q.Offset < 0 || q.Offset > MaxVolumeBytes-q.Length || q.Offset%journal.SectorBytes != 0 || q.Length%journal.SectorBytes != 0 {
			return q, fmt.Errorf("question of %d bytes at %d: %w", q.Length, q.Offset, ErrLimit)
		}
	default:
		return q, fmt.Errorf("question of kind %T: %w", what, ErrProtocol)
	}
	return q, nil
}
