package control

import (
	"context"
	"encoding/binary"
	"net"
	"reflect"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	enginev1 "github.com/lockstep-csi/lockstep/api/engine/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

var checkpointEpoch = time.Date(2026, 11, 22, 10, 0, 0, 123456789, time.UTC)

// someCheckpoints are n of a group, one a second or so, whose members change
// in the midst and in which numbers are missing.
func someCheckpoints(n int) []journal.Checkpoint {
	var all []journal.Checkpoint
	at := checkpointEpoch
	for i := range n {
		at = at.Add(time.Second + time.Duration(i*7919%1000)*time.Microsecond)
		c := journal.Checkpoint{Number: journal.CheckpointNumber(100 + i + i/50), Time: at, Position: journal.Position{Timeline: 1, Seq: journal.Seq(i * 5)}}
		c.Group, c.Members = "prod/shop", []journal.VolumeID{{1}, {2}}
		if i > n/2 {
			c.Members = []journal.VolumeID{{1}, {2}, {3}}
		}
		all = append(all, c)
	}
	return all
}

func withoutPositions(all []journal.Checkpoint) []journal.Checkpoint {
	out := slices.Clone(all)
	for i := range out {
		out[i].Position = journal.Position{}
	}
	return out
}

func TestAnOutlineIsTheCheckpoints(t *testing.T) {
	for _, n := range []int{0, 1, 2, 300} {
		want := withoutPositions(someCheckpoints(n))
		got, err := appendOutline(nil, "prod/shop", encodeOutline(someCheckpoints(n)))
		if err != nil || len(got) != n || n > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%d checkpoints come back as %d, %v", n, len(got), err)
		}
	}
	// A number may be taken twice, and a clock be set back.
	odd := someCheckpoints(3)
	odd[1].Number, odd[2].Number, odd[2].Time = odd[0].Number, 1, checkpointEpoch.Add(-time.Hour)
	if got, err := appendOutline(nil, "prod/shop", encodeOutline(odd)); err != nil || !reflect.DeepEqual(got, withoutPositions(odd)) {
		t.Errorf("odd ones come back as %v, %v", got, err)
	}
}

// A day of checkpoints is listed in less than a tenth of its bytes.
func TestAnOutlineIsSmall(t *testing.T) {
	day := someCheckpoints(24 * 60 * 60)
	full := &enginev1.CheckpointsResponse{}
	for _, c := range day {
		full.Checkpoints = append(full.Checkpoints, encodeCheckpoint(c))
	}
	outline := 0
	for part := range slices.Chunk(day, outlineBatch) {
		size := proto.Size(&enginev1.CheckpointsResponse{Outline: encodeOutline(part)})
		if size > 1<<20 {
			t.Errorf("a message has %d bytes", size)
		}
		outline += size
	}
	t.Logf("a day: %d bytes in full, %d as an outline", proto.Size(full), outline)
	if outline*10 > proto.Size(full) {
		t.Errorf("an outline of %d bytes, of %d", outline, proto.Size(full))
	}
}

func TestABadOutlineIsRefused(t *testing.T) {
	id := []*enginev1.OutlineMembers{{Checkpoints: 2, Volumes: [][]byte{make([]byte, 16)}}}
	for name, m := range map[string]*enginev1.Outline{
		"times are missing":    {Numbers: []int64{1, 1}, Times: []int64{1}, Members: id},
		"members are missing":  {Numbers: []int64{1, 1, 1}, Times: []int64{1, 1, 1}, Members: id},
		"members of more":      {Numbers: []int64{1}, Times: []int64{1}, Members: id},
		"members of very many": {Numbers: []int64{1}, Times: []int64{1}, Members: []*enginev1.OutlineMembers{{Checkpoints: 1 << 31}}},
		"half an id":           {Numbers: []int64{1, 1}, Times: []int64{1, 1}, Members: []*enginev1.OutlineMembers{{Checkpoints: 2, Volumes: [][]byte{{1}}}}},
	} {
		if got, err := appendOutline(nil, "g", m); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzOutline(f *testing.F) {
	seed, err := proto.Marshal(encodeOutline(someCheckpoints(5)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(binary.AppendUvarint([]byte{0x08}, 1<<40))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m enginev1.Outline
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		got, err := appendOutline(nil, "g", &m)
		if err == nil && len(got) != len(m.GetNumbers()) {
			t.Errorf("%d checkpoints of %d", len(got), len(m.GetNumbers()))
		}
	})
}

func TestWantedCheckpoints(t *testing.T) {
	all := someCheckpoints(10)
	all[9].Group = "prod/other"
	pins := map[string]journal.Position{"a": all[3].Position, "b": all[3].Position, "c": all[9].Position, "gone": {Timeline: 9, Seq: 9}}
	for _, c := range []struct {
		name string
		req  *enginev1.CheckpointsRequest
		want []journal.Checkpoint
	}{
		{"all", &enginev1.CheckpointsRequest{}, all},
		{"a group's", &enginev1.CheckpointsRequest{Group: "prod/shop"}, all[:9]},
		{"a range", &enginev1.CheckpointsRequest{From: 102, To: 104}, all[2:5]},
		{"pinned", &enginev1.CheckpointsRequest{Group: "prod/shop", Pinned: true}, all[3:4]},
		{"pinned in a range", &enginev1.CheckpointsRequest{Pinned: true, From: 104}, all[9:]},
		{"none", &enginev1.CheckpointsRequest{From: 1 << 63, To: 1 << 63}, nil},
	} {
		if got := wantedCheckpoints(c.req, slices.Clone(all), pins); len(got) != len(c.want) || len(got) > 0 && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}

// oldEngine is one of the version before: it knows a range and a group, and
// nothing else of a request.
type oldEngine struct {
	enginev1.UnimplementedEngineServer
	held []journal.Checkpoint
}

func (e *oldEngine) Checkpoints(req *enginev1.CheckpointsRequest, stream enginev1.Engine_CheckpointsServer) error {
	out := &enginev1.CheckpointsResponse{}
	for _, c := range e.held {
		if n := uint64(c.Number); n >= req.GetFrom() && (req.GetTo() == 0 || n <= req.GetTo()) && c.Group == req.GetGroup() {
			out.Checkpoints = append(out.Checkpoints, encodeCheckpoint(c))
		}
	}
	return stream.Send(out)
}

// An engine that is upgraded later than its controller answers with more than
// was asked for, which is taken.
func TestAnOldEngineListsItsCheckpointsInFull(t *testing.T) {
	l := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	old := &oldEngine{held: someCheckpoints(40)}
	enginev1.RegisterEngineServer(server, old)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient("passthrough:old", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := NewClient(journal.VolumeID{1}, conn)
	for name, call := range map[string]func(context.Context, string) ([]journal.Checkpoint, error){"outline": c.Outline, "pinned": func(ctx context.Context, group string) ([]journal.Checkpoint, error) {
		pinned, left, err := c.PinnedCheckpoints(ctx, group)
		if len(left) > 0 {
			t.Errorf("%d checkpoints are said to be left", len(left))
		}
		return pinned, err
	}} {
		if got, err := call(t.Context(), "prod/shop"); err != nil || !reflect.DeepEqual(got, old.held) {
			t.Errorf("%s: %d checkpoints, %v", name, len(got), err)
		}
	}
}
