package site_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// rival is another site that believes to be primary at term 1.
type rival struct {
	replication.ReplicaStores
	mu       sync.Mutex
	standing replication.Standing
	followed chan replication.Announcement
	kept     chan replication.Announcement // nil: nobody asks
}

func (r *rival) Standing(context.Context, string) (replication.Standing, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.standing, true, nil
}

func (r *rival) Follow(_ context.Context, peer string, a replication.Announcement) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.standing.Role == group.RolePrimary {
		r.followed <- a
	} else {
		select {
		case r.kept <- a:
		default:
		}
	}
	r.standing = replication.Standing{Role: group.RoleReplica, Term: a.Term, Source: peer}
	return nil
}

func (r *rival) Recognise(context.Context, string, replication.Announcement) error { return nil }

func (r *rival) Ended(context.Context, string, string, group.Term) error {
	return errors.New("the rival's group does not end")
}

func (r *rival) Demote(context.Context, string, group.Term, string) error { return nil }

// serve runs the rival's replication service and returns a connection to it.
func (r *rival) serve(t *testing.T) grpc.ClientConnInterface {
	t.Helper()
	server, err := replication.NewServer(replication.ServerConfig{
		Site: "b", Groups: r, Stores: r, Peer: func(context.Context) (string, error) { return "a", nil }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	server.Register(g)
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(l) })
	conn, err := grpc.NewClient("passthrough:rival", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.Stop()
		serving.Wait()
		if err := errors.Join(conn.Close(), server.Close()); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func (r *rival) Replica(context.Context, string, journal.VolumeID) (replication.ReplicaStore, error) {
	return nil, replication.ErrNoReplica
}

func (r *rival) Import(context.Context, string, replication.ImageSpec) (replication.Import, error) {
	return nil, errors.New("the rival takes no image")
}

func TestFailoverOfAPrimaryDecidesASplitBrain(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r := &rival{standing: replication.Standing{Role: group.RolePrimary, Term: 1}, followed: make(chan replication.Announcement, 1)}
	s, err := site.Open(ctx, site.Config{Name: "a", Root: "/root", FS: vfs.NewMem(), Peers: map[string]site.Peer{"b": {Conn: r.serve(t)}},
		Exports: &exports{}, SegmentBytes: journal.MinSegmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	settings := quiet()
	settings.ReplicateTo = "b"
	if err := s.CreateVolume(ctx, site.NewVolume{ID: volumeA, Name: "a", SizeBytes: volumeBytes, Group: "shop", Settings: settings}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Groups().TakePoint(ctx, "shop", ""); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		g, err := s.Groups().Summary(context.Background(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		if errors.Is(g.Sending.LastError, replication.ErrSplitBrain) {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the split is not seen: %v", g.Sending.LastError)
		}
	}
	f, err := s.Groups().Failover(ctx, "shop", "latest", false)
	if err != nil || f.Term != 2 {
		t.Fatalf("failover: %+v, %v, want term 2", f, err)
	}
	select {
	case a := <-r.followed:
		if a.Term != 2 {
			t.Errorf("the rival follows at term %d, want 2", a.Term)
		}
	case <-ctx.Done():
		t.Fatal("the rival does not give way")
	}
	if _, err := s.Groups().Failover(ctx, "shop", "latest", false); !errors.Is(err, group.ErrRole) {
		t.Errorf("failover of an undisputed primary: %v, want ErrRole", err)
	}
}

// TestAGroupThatIsMadeAgainTakesUpItsTerm: the peer has a replica of an earlier group of the
// name, which was failed over and back, and this very site owns that one's term. It is not
// demoted by it, to a replica of its own.
func TestAGroupThatIsMadeAgainTakesUpItsTerm(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r := &rival{standing: replication.Standing{Role: group.RoleReplica, Term: 3, Source: "a"}, kept: make(chan replication.Announcement, 1)}
	fs := vfs.NewMem()
	cfg := site.Config{Name: "a", Root: "/root", FS: fs, Peers: map[string]site.Peer{"b": {Conn: r.serve(t)}}, Exports: &exports{}, SegmentBytes: journal.MinSegmentBytes}
	s, err := site.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	settings := quiet()
	settings.ReplicateTo = "b"
	if err := s.CreateVolume(ctx, site.NewVolume{ID: volumeA, Name: "a", SizeBytes: volumeBytes, Group: "shop", Settings: settings}); err != nil {
		t.Fatal(err)
	}
	select {
	case a := <-r.kept:
		if a.Term != 3 {
			t.Errorf("announced at term %d, want 3", a.Term)
		}
	case <-ctx.Done():
		st, err := s.Groups().State("shop")
		t.Fatalf("the group is not replicated: %s at term %d, fed by %q, %v", st.Role, st.Term, st.Source, err)
	}
	if _, _, err := s.Groups().TakePoint(ctx, "shop", ""); err != nil {
		t.Errorf("the group goes on: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = site.Open(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	if st, err := s.Groups().State("shop"); err != nil || st.Role != group.RolePrimary || st.Term != 3 {
		t.Errorf("after a restart the site is its %s at term %d, %v; want its primary at 3", st.Role, st.Term, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
