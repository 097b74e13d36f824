package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/replication"
)

// TestMessagesPassUnchanged: both ways, with fields that this version does not
// know, until the engine ends the stream in order.
func TestMessagesPassUnchanged(t *testing.T) {
	r := newRig(t)
	var got []*replicationv1.SourceMessage
	welcome := &replicationv1.ReplicaMessage{Message: &replicationv1.ReplicaMessage_Welcome{Welcome: &replicationv1.Welcome{CreditBytes: 7}}}
	welcome.ProtoReflect().SetUnknown([]byte{0xf8, 0x07, 0x05}) // field 127
	engine := r.script("engine", &scripted{onReplicate: func(stream replicationv1.Replication_ReplicateServer) error {
		peer, err := behindGateway()(stream.Context())
		if err != nil || peer != "a" {
			t.Errorf("engine sees peer %q, %v; want a", peer, err)
		}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return stream.Send(welcome)
			}
			if err != nil {
				return err
			}
			got = append(got, m)
		}
	}})
	r.engines.set(volumeOne, engine.address)
	gw := r.gateway("", r.nobody(), nil)

	sent := []*replicationv1.SourceMessage{hello(volumeOne), chunk(1, 100), chunk(2, replication.MaxChunkBytes), chunk(3, 1)}
	sent[0].GetHello().ProtoReflect().SetUnknown([]byte{0xf8, 0x07, 0x09})
	// A name that the caller gives itself must not get through.
	ctx := metadata.NewOutgoingContext(r.within(), metadata.Pairs(replication.PeerKey, "c"))
	stream, err := replicationv1.NewReplicationClient(r.peer(gw.address)).Replicate(ctx)
	must(t, err)
	for _, m := range sent {
		must(t, stream.Send(m))
	}
	must(t, stream.CloseSend())
	answer, err := stream.Recv()
	must(t, err)
	if !proto.Equal(answer, welcome) {
		t.Errorf("got %v back, want %v", answer, welcome)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("stream ends with %v, want io.EOF", err)
	}
	if len(got) != len(sent) {
		t.Fatalf("engine got %d messages, want %d", len(got), len(sent))
	}
	for i := range sent {
		if !proto.Equal(got[i], sent[i]) {
			t.Errorf("message %d was changed", i)
		}
	}
}

// TestRefusalPasses: what an engine refuses with arrives with its details.
func TestRefusalPasses(t *testing.T) {
	r := newRig(t)
	want := replication.Status(&replication.TermError{Kind: replication.ErrStaleTerm, Group: testGroup, Offered: 1, Held: 5, Owner: "c"})
	engine := r.script("engine", &scripted{onReplicate: func(replicationv1.Replication_ReplicateServer) error { return want }})
	r.engines.set(volumeOne, engine.address)
	gw := r.gateway("", r.nobody(), nil)
	stream, err := replicationv1.NewReplicationClient(r.peer(gw.address)).Replicate(r.within())
	must(t, err)
	must(t, stream.Send(hello(volumeOne)))
	_, err = stream.Recv()
	if !proto.Equal(status.Convert(err).Proto(), status.Convert(want).Proto()) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// TestRouting is the table of streams that reach no engine.
func TestRouting(t *testing.T) {
	r := newRig(t)
	r.engines.set(volumeTwo, r.nobody())
	client := replicationv1.NewReplicationClient(r.peer(r.gateway("", r.nobody(), nil).address))
	for _, c := range []struct {
		name    string
		message *replicationv1.SourceMessage
		code    codes.Code
		text    string
	}{
		{"no engine", hello(volumeOne), codes.Unavailable, volumeOne.String() + " at site b: volume has no engine"},
		{"engine is gone", hello(volumeTwo), codes.Unavailable, "reach engine of volume " + volumeTwo.String()},
		{"no hello", chunk(1, 1), codes.InvalidArgument, "does not open with hello"},
		{"no volume", &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Hello{Hello: &replicationv1.Hello{Volume: []byte("x")}}}, codes.InvalidArgument, "volume id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			stream, err := client.Replicate(r.within())
			must(t, err)
			must(t, stream.Send(c.message))
			_, err = stream.Recv()
			if status.Code(err) != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v and %q", err, c.code, c.text)
			}
		})
	}
	stream, err := client.Replicate(r.within())
	must(t, err)
	must(t, stream.CloseSend())
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("stream without a message: %v, want InvalidArgument", err)
	}
}

// TestSilence: a stream that says nothing is not kept.
func TestSilence(t *testing.T) {
	r := newRig(t)
	gw := r.gateway("", r.nobody(), func(c *Config) { c.HelloTimeout = 50 * time.Millisecond })
	stream, err := replicationv1.NewReplicationClient(r.peer(gw.address)).Replicate(r.within())
	must(t, err)
	if _, err := stream.Recv(); status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "no first message") {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
}

// TestBackpressure: while an engine reads nothing, its sender comes to a stop
// within what the windows hold; another volume's stream goes on.
func TestBackpressure(t *testing.T) {
	r := newRig(t)
	read := make(chan struct{})
	var received atomic.Int64
	slow := r.script("engine", &scripted{onReplicate: func(stream replicationv1.Replication_ReplicateServer) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(&replicationv1.ReplicaMessage{}); err != nil {
			return err
		}
		<-read
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			received.Add(int64(len(m.GetChunk().GetData())))
		}
	}})
	r.engines.set(volumeOne, slow.address)
	quick := r.script("engine", &scripted{onReplicate: func(stream replicationv1.Replication_ReplicateServer) error {
		for {
			if _, err := stream.Recv(); err != nil {
				return nil
			}
			if err := stream.Send(&replicationv1.ReplicaMessage{}); err != nil {
				return err
			}
		}
	}})
	r.engines.set(volumeTwo, quick.address)
	gw := r.gateway("", r.nobody(), nil)
	client := replicationv1.NewReplicationClient(r.peer(gw.address))
	stream, err := client.Replicate(r.within())
	must(t, err)
	must(t, stream.Send(hello(volumeOne)))
	_, err = stream.Recv()
	must(t, err)

	const messages, bytesEach = 64, replication.MaxChunkBytes
	var sent atomic.Int64
	done := make(chan error, 1)
	go func() {
		for i := range messages {
			if err := stream.Send(chunk(uint64(i+1), bytesEach)); err != nil {
				done <- err
				return
			}
			sent.Add(bytesEach)
		}
		done <- stream.CloseSend()
	}()
	// The other volume's stream turns over far more messages meanwhile than
	// the stopped one may.
	other, err := client.Replicate(r.within())
	must(t, err)
	must(t, other.Send(hello(volumeTwo)))
	for i := range messages {
		_, err := other.Recv()
		must(t, err)
		must(t, other.Send(chunk(uint64(i+1), bytesEach)))
	}
	// The engine's own window, which is larger, is the last that fills.
	const most = 2*replication.MaxMessageBytes + 2*StreamWindowBytes + 6*bytesEach
	if n := sent.Load(); n == 0 || n > most {
		t.Errorf("%d bytes were taken from the sender while the engine read nothing, want 1 to %d", n, most)
	}
	select {
	case err := <-done:
		t.Fatalf("the sender came through: %v", err)
	default:
	}
	close(read)
	must(t, <-done)
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("stream ends with %v, want io.EOF", err)
	}
	if n := received.Load(); n != messages*bytesEach {
		t.Errorf("engine got %d bytes, want %d", n, messages*bytesEach)
	}
}

// holding is an engine that holds streams until they are ended.
func holding(ended chan<- error) *scripted {
	return &scripted{onReplicate: func(stream replicationv1.Replication_ReplicateServer) error {
		if err := stream.Send(&replicationv1.ReplicaMessage{}); err != nil {
			return err
		}
		<-stream.Context().Done()
		ended <- stream.Context().Err()
		return stream.Context().Err()
	}}
}

// TestBothSidesEndTogether: the engine learns that the sender has gone, and the
// sender that the engine has.
func TestBothSidesEndTogether(t *testing.T) {
	r := newRig(t)
	ended := make(chan error, 2)
	engine := r.script("engine", holding(ended))
	r.engines.set(volumeOne, engine.address)
	gw := r.gateway("", r.nobody(), nil)
	client := replicationv1.NewReplicationClient(r.peer(gw.address))
	open := func(ctx context.Context) replicationv1.Replication_ReplicateClient {
		stream, err := client.Replicate(ctx)
		must(t, err)
		must(t, stream.Send(hello(volumeOne)))
		_, err = stream.Recv()
		must(t, err)
		return stream
	}
	ctx, cancel := context.WithCancel(r.within())
	open(ctx)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("engine's stream ends with %v", err)
	}
	stream := open(r.within())
	engine.stop()
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("sender's stream ends with %v, want Unavailable", err)
	}
}

// TestStop: Close ends streams so that their senders go elsewhere, and nothing
// new is taken.
func TestStop(t *testing.T) {
	r := newRig(t)
	ended := make(chan error, 1)
	r.engines.set(volumeOne, r.script("engine", holding(ended)).address)
	gw := r.gateway("", r.nobody(), nil)
	client := replicationv1.NewReplicationClient(r.peer(gw.address))
	stream, err := client.Replicate(r.within())
	must(t, err)
	must(t, stream.Send(hello(volumeOne)))
	_, err = stream.Recv()
	must(t, err)
	waiting, err := client.Replicate(r.within())
	must(t, err)
	r.until("a second stream is carried", func() bool { return r.gauge(gw, "lockstep_gateway_streams") == 2 })
	gw.Close()
	if err := <-ended; err == nil {
		t.Error("the engine's stream goes on")
	}
	for _, s := range []replicationv1.Replication_ReplicateClient{stream, waiting} {
		if _, err := s.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "stopping") {
			t.Errorf("stream ends with %v, want Unavailable because the gateway stops", err)
		}
	}
	late, err := client.Replicate(r.within())
	must(t, err)
	if _, err := late.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("stream after the end: %v, want Unavailable", err)
	}
	if _, err := client.Announce(r.within(), &replicationv1.AnnounceRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("announcement after the end: %v, want Unavailable", err)
	}
}

func TestStreamLimit(t *testing.T) {
	r := newRig(t)
	ended := make(chan error, 1)
	r.engines.set(volumeOne, r.script("engine", holding(ended)).address)
	gw := r.gateway("", r.nobody(), func(c *Config) { c.MaxStreams = 1 })
	client := replicationv1.NewReplicationClient(r.peer(gw.address))
	ctx, cancel := context.WithCancel(r.within())
	stream, err := client.Replicate(ctx)
	must(t, err)
	must(t, stream.Send(hello(volumeOne)))
	_, err = stream.Recv()
	must(t, err)
	second, err := client.Replicate(r.within())
	must(t, err)
	if _, err := second.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("second stream: %v, want ResourceExhausted", err)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the engine's stream goes on")
	}
	r.until("the first stream's place is free", func() bool { return r.gauge(gw, "lockstep_gateway_streams") == 0 })
	third, err := client.Replicate(r.within())
	must(t, err)
	must(t, third.Send(hello(volumeOne)))
	_, err = third.Recv()
	must(t, err)
}

// TestIdentify: the gateway says itself which version runs there, also while its
// controller is away.
func TestIdentify(t *testing.T) {
	r := newRig(t)
	gw := r.gateway("", r.nobody(), func(c *Config) { c.Software = "v1.2.3" })
	software, err := replication.Identify(r.within(), r.peer(gw.address))
	if err != nil || software != "v1.2.3" {
		t.Errorf("version %q, %v", software, err)
	}
}

// TestAnnounce: the controller gets the announcement as it is, with the peer's
// name, and its answer goes back as it is.
func TestAnnounce(t *testing.T) {
	r := newRig(t)
	var got *replicationv1.AnnounceRequest
	refusal := replication.Status(replication.ErrSplitBrain)
	refuse := false
	controller := r.script("controller", &scripted{onAnnounce: func(ctx context.Context, req *replicationv1.AnnounceRequest) (*replicationv1.AnnounceResponse, error) {
		if peer, err := behindGateway()(ctx); err != nil || peer != "a" {
			t.Errorf("controller sees peer %q, %v; want a", peer, err)
		}
		got = req
		if refuse {
			return nil, refusal
		}
		return &replicationv1.AnnounceResponse{Version: 1, Term: 9}, nil
	}})
	gw := r.gateway("", controller.address, nil)
	client := replicationv1.NewReplicationClient(r.peer(gw.address))
	req := &replicationv1.AnnounceRequest{Version: 1, Group: testGroup, Term: 9, Members: []*replicationv1.Member{
		{Volume: volumeOne[:], Name: "pgdata", SizeBytes: 512, Attributes: map[string]string{"later": "kept"}}}}
	resp, err := client.Announce(r.within(), req)
	must(t, err)
	if !proto.Equal(got, req) || resp.GetTerm() != 9 {
		t.Errorf("controller got %v, peer %v", got, resp)
	}
	refuse = true
	if _, err = client.Announce(r.within(), req); !proto.Equal(status.Convert(err).Proto(), status.Convert(refusal).Proto()) {
		t.Errorf("got %v, want %v", err, refusal)
	}
	controller.stop()
	if _, err = client.Announce(r.within(), req); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "controller of site b") {
		t.Errorf("without a controller: %v", err)
	}
}

// TestOnlyAGatewayIsBelieved: the name of a peer is taken from a gateway's
// call, and from no other.
func TestOnlyAGatewayIsBelieved(t *testing.T) {
	r := newRig(t)
	engine := r.script("engine", &scripted{onAnnounce: func(ctx context.Context, _ *replicationv1.AnnounceRequest) (*replicationv1.AnnounceResponse, error) {
		peer, err := behindGateway()(ctx)
		if err != nil {
			return nil, replication.Status(err)
		}
		return nil, status.Error(codes.OK, peer)
	}})
	call := func(role string, pairs ...string) error {
		conn, err := replication.Dial(engine.address, r.tls(certs.RoleClientTLS(r.dirs[role], certs.RoleEngine)))
		must(t, err)
		defer conn.Close()
		_, err = replicationv1.NewReplicationClient(conn).Announce(metadata.NewOutgoingContext(r.within(), metadata.Pairs(pairs...)), &replicationv1.AnnounceRequest{})
		return err
	}
	for _, c := range []struct {
		name, role string
		told       []string
		want       codes.Code
	}{
		{"gateway", "gateway", []string{replication.PeerKey, "a"}, codes.OK},
		{"controller", "controller", []string{replication.PeerKey, "a"}, codes.PermissionDenied},
		{"gateway that tells nothing", "gateway", nil, codes.InvalidArgument},
		{"gateway that tells two", "gateway", []string{replication.PeerKey, "a", replication.PeerKey, "c"}, codes.InvalidArgument},
		{"gateway that tells an empty name", "gateway", []string{replication.PeerKey, ""}, codes.InvalidArgument},
	} {
		if err := call(c.role, c.told...); status.Code(err) != c.want {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

// TestRateLimit: a limited gateway takes as long as the limit says.
func TestRateLimit(t *testing.T) {
	r := newRig(t)
	engine := r.script("engine", &scripted{onReplicate: func(stream replicationv1.Replication_ReplicateServer) error {
		for {
			if _, err := stream.Recv(); err != nil {
				return nil
			}
		}
	}})
	r.engines.set(volumeOne, engine.address)
	const bytesPerSecond, each, messages = 4 << 20, 256 << 10, 8
	limiter := rate.NewLimiter(bytesPerSecond, replication.MaxMessageBytes)
	// The bucket begins to fill again when it is emptied, not when the first message comes.
	begin := time.Now()
	limiter.AllowN(begin, replication.MaxMessageBytes)
	gw := r.gateway("", r.nobody(), func(c *Config) { c.Limiter = limiter })
	stream, err := replicationv1.NewReplicationClient(r.peer(gw.address)).Replicate(r.within())
	must(t, err)
	must(t, stream.Send(hello(volumeOne)))
	for i := range messages {
		must(t, stream.Send(chunk(uint64(i+1), each)))
	}
	must(t, stream.CloseSend())
	_, _ = stream.Recv()
	if took, least := time.Since(begin), time.Duration(messages*each)*time.Second/bytesPerSecond; took < least {
		t.Errorf("took %v, want at least %v", took, least)
	}
}

// gauge is the sum of a metric of a gateway over its labels.
func (r *rig) gauge(gw *running, name string) float64 {
	r.t.Helper()
	registry := prometheus.NewPedanticRegistry()
	must(r.t, registry.Register(gw.Gateway))
	families, err := registry.Gather()
	must(r.t, err)
	total := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			total += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return total
}

func TestMetrics(t *testing.T) {
	r := newRig(t)
	engine := r.script("engine", &scripted{onReplicate: func(stream replicationv1.Replication_ReplicateServer) error {
		_, err := stream.Recv()
		if err == nil {
			err = stream.Send(&replicationv1.ReplicaMessage{Message: &replicationv1.ReplicaMessage_Ack{Ack: &replicationv1.Ack{Number: 1}}})
		}
		return err
	}})
	r.engines.set(volumeOne, engine.address)
	gw := r.gateway("", r.nobody(), nil)
	client := replicationv1.NewReplicationClient(r.peer(gw.address))
	stream, err := client.Replicate(r.within())
	must(t, err)
	must(t, stream.Send(hello(volumeOne)))
	answer, err := stream.Recv()
	must(t, err)
	_, _ = stream.Recv()
	_, _ = client.Announce(r.within(), &replicationv1.AnnounceRequest{})
	want := float64(proto.Size(hello(volumeOne)) + proto.Size(answer))
	r.until("the stream is counted", func() bool { return r.gauge(gw, "lockstep_gateway_streams_ended_total") == 1 })
	if got := r.gauge(gw, "lockstep_gateway_bytes_total"); got != want {
		t.Errorf("%v bytes are counted, want %v", got, want)
	}
	if got := r.gauge(gw, "lockstep_gateway_announcements_total"); got != 1 {
		t.Errorf("%v announcements are counted, want 1", got)
	}
	if got := r.gauge(gw, "lockstep_gateway_streams"); got != 0 {
		t.Errorf("%v streams are carried, want none", got)
	}
}

func TestConfig(t *testing.T) {
	r := newRig(t)
	good := r.gateway("", r.nobody(), nil).cfg
	for name, spoil := range map[string]func(*Config){
		"site":       func(c *Config) { c.Site = "" },
		"engines":    func(c *Config) { c.Engines = nil },
		"dial":       func(c *Config) { c.DialEngine = nil },
		"controller": func(c *Config) { c.Controller = nil },
		"peer":       func(c *Config) { c.Peer = nil },
		"clock":      func(c *Config) { c.Clock = nil },
		"log":        func(c *Config) { c.Log = nil },
		"streams":    func(c *Config) { c.MaxStreams = -1 },
		"hello":      func(c *Config) { c.HelloTimeout = -1 },
		"burst":      func(c *Config) { c.Limiter = rate.NewLimiter(1, 1) },
	} {
		bad := good
		spoil(&bad)
		if _, err := New(bad); err == nil {
			t.Errorf("%s: a bad configuration is accepted", name)
		}
	}
}

// TestFrameKeepsBytes: reading the first message does not use it up.
func TestFrameKeepsBytes(t *testing.T) {
	want, err := proto.Marshal(hello(volumeOne))
	must(t, err)
	f := new(frame)
	must(t, frames{}.Unmarshal(buffer(want), f))
	for range 2 {
		volume, err := f.opening()
		must(t, err)
		if volume != volumeOne || !bytes.Equal(f.data.Materialize(), want) {
			t.Errorf("got volume %s and %x", volume, f.data.Materialize())
		}
	}
	if _, err := (frames{}).Marshal("text"); err == nil {
		t.Error("a text was taken for a frame")
	}
}
