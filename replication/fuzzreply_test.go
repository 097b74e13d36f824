package replication

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// FuzzReply: no answer that a replica can make panics the source, gives it credit
// that it does not have, or has it send records from off its path.
func FuzzReply(f *testing.F) {
	source, _ := fuzzPair(f)
	for _, m := range []*replicationv1.ReplicaMessage{
		{Message: &replicationv1.ReplicaMessage_Welcome{Welcome: &replicationv1.Welcome{Version: ProtocolVersion, CreditBytes: 1 << 20, After: encodePosition(pos(1, 4))}}},
		{Message: &replicationv1.ReplicaMessage_Welcome{Welcome: &replicationv1.Welcome{Version: ProtocolVersion, CreditBytes: 1,
			Partial: &replicationv1.PartialImage{At: encodePosition(pos(1, 4)), NextOffset: journal.SectorBytes}}}},
		{Message: &replicationv1.ReplicaMessage_Ack{Ack: &replicationv1.Ack{Number: 1, Durable: encodePosition(pos(1, 10))}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(replicationv1.ReplicaMessage)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		c, err := newCodec(false)
		must(t, err)
		s := &sending{store: source, group: modelGroup, term: 1, codec: c, stats: newVolumeStats(volumeOne, fixedClock{})}
		defer s.close()
		_, err = s.hello()
		must(t, err)
		if s.begin(m.GetWelcome(), 1<<20) != nil {
			// As a first message it is no good; then as one behind the first batch.
			must(t, s.begin(&replicationv1.Welcome{Version: ProtocolVersion, CreditBytes: 1 << 20, After: encodePosition(pos(1, 4))}, 1<<20))
		}
		if s.image == nil && !s.path.Contains(s.last) {
			t.Fatalf("records are sent from %s", s.last)
		}
		sent, err := s.next(context.Background())
		if errors.Is(err, errNoCredit) || errors.Is(err, journal.ErrDiverged) || s.last == source.Tip() && err != nil {
			return
		}
		must(t, err)
		before := s.number
		if s.acknowledge(m.GetAck()) == nil && m.GetAck().GetNumber() > before {
			t.Fatalf("acknowledged %d of %d, sent %v", m.GetAck().GetNumber(), before, sent)
		}
	})
}

// FuzzRepairReply: no response to a request for a repair panics the source, or
// damages its store.
func FuzzRepairReply(f *testing.F) {
	maker := realMaker{history: map[journal.VolumeID]*history{volumeOne: newHistory()}, rng: rand.New(rand.NewPCG(1, 2))}
	store := maker.create(volumeOne, 1).(*realStore)
	for range 5 {
		if err := store.write(journal.KindWrite, 0, journal.SectorBytes); err != nil {
			f.Fatal(err)
		}
	}
	at := store.Tip()
	record := encodeQuestion(journal.RepairQuestion{Record: at})
	sectors := encodeQuestion(journal.RepairQuestion{Base: journal.Position{Timeline: at.Timeline}, Length: journal.SectorBytes})
	for _, q := range []*replicationv1.RepairQuestion{nil, record, sectors, {}} {
		for _, n := range []int{0, journal.SectorBytes, journal.SectorBytes + journal.RecordHeaderBytes} {
			seed, err := proto.Marshal(&replicationv1.RepairResponse{Version: ProtocolVersion, Question: q,
				Answer: &replicationv1.RepairAnswer{Question: q, Data: make([]byte, n), At: encodePosition(at)}})
			if err != nil {
				f.Fatal(err)
			}
			f.Add(seed)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		resp := new(replicationv1.RepairResponse)
		if proto.Unmarshal(b, resp) != nil {
			return
		}
		v := &VolumeSender{client: replyOf{resp: resp}, cfg: VolumeSenderConfig{Group: modelGroup, Term: group.Term(1), Volume: volumeOne, Log: slog.New(slog.DiscardHandler)}}
		// The store asks nothing, since it is whole; so the answer is taken as to what
		// it says that was asked.
		if q := resp.GetAnswer().GetQuestion(); q != nil {
			_ = v.take(context.Background(), store.store, q, resp.GetAnswer())
		}
		var asked *journal.RepairQuestion
		if _, err := v.repair(context.Background(), store.store, &asked); err == nil && asked != nil {
			if _, err := answer(context.Background(), store.store, *asked); err != nil && !errors.Is(err, journal.ErrRange) {
				t.Fatalf("answer %s: %v", *asked, err)
			}
		}
		if err := store.verify(); err != nil {
			t.Fatal(err)
		}
	})
}

// replyOf is a peer that answers every request for a repair with one response.
type replyOf struct {
	replicationv1.ReplicationClient
	resp *replicationv1.RepairResponse
}

func (r replyOf) Repair(context.Context, *replicationv1.RepairRequest, ...grpc.CallOption) (*replicationv1.RepairResponse, error) {
	return r.resp, nil
}
