package replication

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// FuzzRepair: no request that a peer can make panics the replica, damages its store,
// or has it ask for what is whole.
func FuzzRepair(f *testing.F) {
	maker := realMaker{history: map[journal.VolumeID]*history{volumeOne: newHistory()}, rng: rand.New(rand.NewPCG(1, 2))}
	store := maker.create(volumeOne, 1).(*realStore)
	for range 5 {
		if err := store.write(journal.KindWrite, 0, journal.SectorBytes); err != nil {
			f.Fatal(err)
		}
	}
	at := store.Tip()
	a := &admission{site: "b", standings: fixedStanding{Role: group.RoleReplica, Term: 1, Source: "a"}, stores: oneStore{store.store}, gate: newGate()}
	record := encodeQuestion(journal.RepairQuestion{Record: at})
	sectors := encodeQuestion(journal.RepairQuestion{Base: journal.Position{Timeline: at.Timeline}, Length: journal.SectorBytes})
	for _, q := range []*replicationv1.RepairQuestion{record, sectors, {}} {
		for _, n := range []int{0, journal.SectorBytes, journal.SectorBytes + journal.RecordHeaderBytes} {
			seed, err := proto.Marshal(&replicationv1.RepairRequest{Version: ProtocolVersion, Group: modelGroup, Term: 1, Volume: volumeOne[:], Question: q,
				Answer: &replicationv1.RepairAnswer{Question: q, Data: make([]byte, n), At: encodePosition(at)}})
			if err != nil {
				f.Fatal(err)
			}
			f.Add(seed)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req := new(replicationv1.RepairRequest)
		if proto.Unmarshal(b, req) != nil {
			return
		}
		resp, refused, err := a.repair(context.Background(), "a", req)
		if refused != nil && !errors.Is(refused, journal.ErrCorrupt) {
			t.Fatalf("refused as %v", refused)
		}
		if err == nil && resp.GetQuestion() != nil {
			t.Fatalf("a whole store asks for %v", resp.GetQuestion())
		}
		if err := store.verify(); err != nil {
			t.Fatal(err)
		}
	})
}

// fixedStanding is one group's standing, which does not change.
type fixedStanding Standing

func (s fixedStanding) Standing(_ context.Context, name string) (Standing, bool, error) {
	return Standing(s), name == modelGroup, nil
}

// oneStore is one member's store; there are no images.
type oneStore struct{ *journal.Store }

func (s oneStore) Replica(_ context.Context, _ string, volume journal.VolumeID) (ReplicaStore, error) {
	if volume != s.Volume() {
		return nil, ErrUnknownMember
	}
	return s.Store, nil
}

func (oneStore) Import(context.Context, string, ImageSpec) (Import, error) {
	return nil, errors.New("no image is sent")
}
