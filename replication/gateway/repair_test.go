package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"path"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// pair is a volume's two stores, which have the same records, partly in their bases.
type pair struct {
	*rig
	source, replica *volumeStore
}

func newPair(t *testing.T) *pair {
	p := &pair{rig: newRig(t), source: newVolumeStore(t, volumeOne), replica: newVolumeStore(t, volumeOne)}
	p.source.create()
	return p
}

// fill writes, and has both stores destage some of it.
func (p *pair) fill() {
	p.t.Helper()
	p.source.write(200)
	p.until("the replica is filled", func() bool { return same(p.t, p.replica, p.source) })
	for _, v := range []*volumeStore{p.source, p.replica} {
		store := v.get()
		store.SetRetention(journal.Retention{JournalBytes: journal.MinSegmentBytes})
		must(p.t, store.Maintain(context.Background()))
		store.SetRetention(journal.Retention{})
	}
	p.source.write(80)
	p.until("the replica has followed", func() bool { return same(p.t, p.replica, p.source) })
}

// damageBase changes bytes that both stores have in their bases by now and that no
// record of their journals hides: of every other block from the first one on.
func (v *volumeStore) damageBase(first int64) {
	v.t.Helper()
	for block := first; block < first+16; block += 2 {
		must(v.t, v.cfg.FS.(*vfs.Mem).Corrupt("store/base.img", block*4096+700, 1))
	}
}

// damageRecords changes a byte of each third record behind a seq.
func (v *volumeStore) damageRecords(behind journal.Seq) {
	v.t.Helper()
	mem, damaged := v.cfg.FS.(*vfs.Mem), 0
	names, err := mem.ReadDir("store/journal")
	must(v.t, err)
	for _, name := range names {
		if path.Ext(name) != ".seg" {
			continue
		}
		f, err := mem.OpenReadOnly("store/journal/" + name)
		must(v.t, err)
		size, err := f.Size()
		must(v.t, err)
		content := make([]byte, size)
		_, err = f.ReadAt(content, 0)
		must(v.t, errors.Join(err, f.Close()))
		for off := 4096; off+64 < len(content); off += 8 {
			// A frame, as docs/format.md has it.
			seq := journal.Seq(binary.LittleEndian.Uint64(content[off+40:]))
			if string(content[off:off+4]) == "LSR1" && seq > behind && seq%3 == 0 {
				must(v.t, mem.Corrupt("store/journal/"+name, int64(off)+64+99, 1))
				damaged++
			}
		}
	}
	if damaged == 0 {
		v.t.Errorf("no record behind %d", behind)
	}
}

// readAll reads the volume and tells of the first error.
func (v *volumeStore) readAll() (first error) {
	p := make([]byte, 4096)
	for off := int64(0); off < volumeBytes; off += int64(len(p)) {
		if err := v.get().ReadAt(p, off); first == nil {
			first = err
		}
	}
	return first
}

func (v *volumeStore) verify() {
	v.t.Helper()
	report, err := journal.Verify(context.Background(), journal.Config{FS: v.cfg.FS.(*vfs.Mem).KillClone(), Dir: "store"})
	must(v.t, err)
	if !report.OK() {
		v.t.Errorf("damage is left: %+v", report.Damage)
	}
}

// TestRepairThroughGateway: both sides of a volume are damaged, over mutual TLS each
// is repaired from the other; whoever reads the source meanwhile waits for it.
func TestRepairThroughGateway(t *testing.T) {
	p := newPair(t)
	o := &orders{held: replication.Standing{Role: group.RoleReplica, Term: 1, Source: "a"}}
	p.engine(p.replica, o)
	p.sender(p.source, 1, p.gateway("", p.nobody(), nil).address)
	p.fill()
	// The replica is damaged first: the source's calls ask what it wants, too.
	behind := max(p.source.get().Horizon().Seq, p.replica.get().Horizon().Seq)
	p.replica.damageBase(82)
	p.replica.damageRecords(behind)
	if err := p.replica.readAll(); !errors.Is(err, journal.ErrCorrupt) {
		t.Fatalf("the replica's damage is read as %v", err)
	}
	p.source.damageBase(83)
	p.source.get().PeerAnswers(true) // as after the sender's first call, which comes within a second
	if err := p.source.readAll(); err != nil {
		t.Fatalf("a read of the source does not wait for its repair: %v", err)
	}
	whole := func(v *volumeStore) func() bool {
		return func() bool { return len(v.get().Damaged()) == 0 }
	}
	p.until("the source is whole", whole(p.source))
	p.until("the replica is whole", whole(p.replica))
	p.source.verify()
	p.replica.verify()
	if !same(t, p.replica, p.source) {
		t.Error("the stores differ")
	}
	p.source.write(50)
	p.until("the replica goes on", func() bool { return same(t, p.replica, p.source) })
	if a, b := p.source.get().RepairStats(), p.replica.get().RepairStats(); a.Repaired == 0 || b.Repaired == 0 || a.Refused+b.Refused > 0 {
		t.Errorf("repairs: %+v and %+v", a, b)
	}
}

// olderServer is a StreamServer of a version that knows no repairs.
type olderServer struct {
	*replication.StreamServer
	asked chan struct{}
}

func (s olderServer) Repair(context.Context, *replicationv1.RepairRequest) (*replicationv1.RepairResponse, error) {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	return nil, status.Error(codes.Unimplemented, "unknown method Repair")
}

// TestPeerWithoutRepair: records go on, and a read of damage fails at once.
func TestPeerWithoutRepair(t *testing.T) {
	p := newPair(t)
	o := &orders{held: replication.Standing{Role: group.RoleReplica, Term: 1, Source: "a"}}
	server, err := replication.NewStreamServer(replication.StreamServerConfig{Site: "b", Volume: volumeOne, Orders: o, Stores: p.replica,
		Peer: behindGateway(), Log: quiet()})
	must(t, err)
	older := olderServer{server, make(chan struct{}, 1)}
	engine := p.start("", p.inside("engine"), func(g *grpc.Server) { replicationv1.RegisterReplicationServer(g, older) }, func() { must(t, server.Close()) })
	p.engines.set(volumeOne, engine.address)
	v, _ := p.sender(p.source, 1, p.gateway("", p.nobody(), nil).address)
	p.fill()
	<-older.asked
	p.source.damageBase(83)
	if err := p.source.readAll(); !errors.Is(err, journal.ErrCorrupt) {
		t.Fatalf("damage is read as %v", err)
	}
	p.source.write(50)
	p.until("the replica goes on", func() bool { return p.replica.get().Durable() == p.source.get().Durable() })
	if !v.Metrics().Connected {
		t.Errorf("the stream ended: %v", v.Metrics().LastError)
	}
}

// TestRepairIsAdmittedLikeAStream: a peer that is not the group's source, of an older
// term, or that names another volume, learns nothing and repairs nothing.
func TestRepairIsAdmittedLikeAStream(t *testing.T) {
	p := newPair(t)
	o := &orders{held: replication.Standing{Role: group.RoleReplica, Term: 2, Source: "a"}}
	p.replica.create()
	p.engine(p.replica, o)
	client := replicationv1.NewReplicationClient(p.peer(p.gateway("", p.nobody(), nil).address))
	request := func(change func(*replicationv1.RepairRequest)) error {
		req := &replicationv1.RepairRequest{Version: replication.ProtocolVersion, Group: testGroup, Term: 2, Volume: volumeOne[:],
			Question: &replicationv1.RepairQuestion{What: &replicationv1.RepairQuestion_Record{Record: &replicationv1.Position{Timeline: 1, Seq: 1}}}}
		change(req)
		_, err := client.Repair(p.within(), req)
		return err
	}
	if err := request(func(*replicationv1.RepairRequest) {}); err != nil {
		t.Fatal(err)
	}
	sectors := func(off, length int64) func(*replicationv1.RepairRequest) {
		return func(r *replicationv1.RepairRequest) {
			r.Question.What = &replicationv1.RepairQuestion_Sectors{Sectors: &replicationv1.RepairSectors{Offset: off, Length: length}}
		}
	}
	other := volumeTwo
	p.engines.set(other, mustResolve(p))
	for name, c := range map[string]struct {
		code   codes.Code
		change func(*replicationv1.RepairRequest)
	}{
		"version":        {codes.FailedPrecondition, func(r *replicationv1.RepairRequest) { r.Version++ }},
		"term":           {codes.FailedPrecondition, func(r *replicationv1.RepairRequest) { r.Term = 1 }},
		"later term":     {codes.Aborted, func(r *replicationv1.RepairRequest) { r.Term = 3 }},
		"group":          {codes.Aborted, func(r *replicationv1.RepairRequest) { r.Group = "other" }},
		"volume":         {codes.NotFound, func(r *replicationv1.RepairRequest) { r.Volume = other[:] }},
		"no volume":      {codes.InvalidArgument, func(r *replicationv1.RepairRequest) { r.Volume = nil }},
		"no question":    {codes.InvalidArgument, func(r *replicationv1.RepairRequest) { r.Question.What = nil }},
		"no seq":         {codes.InvalidArgument, func(r *replicationv1.RepairRequest) { r.Question.GetRecord().Seq = 0 }},
		"too long":       {codes.InvalidArgument, sectors(0, 1<<20+512)},
		"half a sector":  {codes.InvalidArgument, sectors(0, 256)},
		"negative":       {codes.InvalidArgument, sectors(-512, 512)},
		"beyond the end": {codes.InvalidArgument, sectors(1<<48, 512)},
	} {
		if err := request(c.change); status.Code(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	o.set(replication.Standing{Role: group.RoleReplica, Term: 2, Source: "c"})
	if err := request(func(*replicationv1.RepairRequest) {}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("from another site than the source: %v", err)
	}
}

func mustResolve(p *pair) string {
	p.t.Helper()
	address, err := p.engines.Resolve(context.Background(), volumeOne)
	must(p.t, err)
	return address
}

// hungRepairs fills all places that a gateway has for one peer, a, with calls that are not answered
// and have no end of their own, and returns what they end with.
func hungRepairs(r *rig, gateway string, reached <-chan struct{}) <-chan error {
	r.t.Helper()
	client, ended := replicationv1.NewReplicationClient(r.peer(gateway)), make(chan error, maxRepairs)
	ctx, cancel := context.WithCancel(context.Background())
	var calls sync.WaitGroup
	r.t.Cleanup(func() { cancel(); calls.Wait() })
	for range maxRepairs {
		calls.Go(func() {
			_, err := client.Repair(ctx, &replicationv1.RepairRequest{Version: replication.ProtocolVersion, Group: testGroup, Term: 1, Volume: volumeOne[:]})
			ended <- err
		})
	}
	for range maxRepairs {
		select {
		case <-reached:
		case <-r.within().Done():
			r.t.Fatal("the calls do not reach the engine")
		}
	}
	return ended
}

// hungEngines are an engine of volume one that answers no Repair, and says which it has got, and one
// of volume two that answers all.
func hungEngines(r *rig) (reached chan struct{}) {
	r.t.Helper()
	reached = make(chan struct{}, maxRepairs)
	hangs := r.script("engine", &scripted{onRepair: func(ctx context.Context, _ *replicationv1.RepairRequest) (*replicationv1.RepairResponse, error) {
		reached <- struct{}{}
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}})
	answers := r.script("engine", &scripted{onRepair: func(context.Context, *replicationv1.RepairRequest) (*replicationv1.RepairResponse, error) {
		return &replicationv1.RepairResponse{Version: replication.ProtocolVersion}, nil
	}})
	r.engines.set(volumeOne, hangs.address)
	r.engines.set(volumeTwo, answers.address)
	return reached
}

// TestRepairsOfOnePeerLeaveRoomForAnother: calls that hang take the places of their own
// peer alone.
func TestRepairsOfOnePeerLeaveRoomForAnother(t *testing.T) {
	r := newRig(t)
	reached := hungEngines(r)
	gw := r.gateway("", r.nobody(), nil)
	hungRepairs(r, gw.address, reached)
	other := replicationv1.NewReplicationClient(r.peerOf("c", gw.address))
	_, err := other.Repair(r.within(), &replicationv1.RepairRequest{Version: replication.ProtocolVersion, Group: testGroup, Term: 1, Volume: volumeTwo[:]})
	must(t, err)
}

// TestAHungRepairGivesItsPlaceBack: also where its caller would wait for ever.
func TestAHungRepairGivesItsPlaceBack(t *testing.T) {
	r := newRig(t)
	reached := hungEngines(r)
	gw := r.gateway("", r.nobody(), func(c *Config) { c.RepairTimeout = 3 * time.Second })
	ended := hungRepairs(r, gw.address, reached)
	_, err := replicationv1.NewReplicationClient(r.peer(gw.address)).Repair(r.within(),
		&replicationv1.RepairRequest{Version: replication.ProtocolVersion, Group: testGroup, Term: 1, Volume: volumeTwo[:]})
	must(t, err)
	for range maxRepairs {
		if err := <-ended; status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("a call that hangs ends with %v, want DeadlineExceeded", err)
		}
	}
}

// TestARepairThatTheRateLimitLeavesNoTimeForFails: an answer that says nothing would be taken for
// one of the engine.
func TestARepairThatTheRateLimitLeavesNoTimeForFails(t *testing.T) {
	r := newRig(t)
	hungEngines(r)
	limiter := rate.NewLimiter(1, replication.MaxMessageBytes)
	limiter.ReserveN(time.Now(), replication.MaxMessageBytes) // by streams
	gw := r.gateway("", r.nobody(), func(c *Config) { c.Limiter = limiter })
	resp, err := replicationv1.NewReplicationClient(r.peer(gw.address)).Repair(r.within(),
		&replicationv1.RepairRequest{Version: replication.ProtocolVersion, Group: testGroup, Term: 1, Volume: volumeTwo[:]})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("answer %v, %v, want ResourceExhausted", resp, err)
	}
}
