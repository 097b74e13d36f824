package site_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// late keeps the streams of one volume from a peer, for as long as it is on.
type late struct {
	grpc.ClientStream
	volume journal.VolumeID
	on     *atomic.Bool
}

func (l late) SendMsg(m any) error {
	if sent, ok := m.(*replicationv1.SourceMessage); ok && l.on.Load() && sent.GetHello() != nil && journal.VolumeID(sent.GetHello().GetVolume()) == l.volume {
		return errors.New("the link has no room for it yet")
	}
	return l.ClientStream.SendMsg(m)
}

// pair is two sites that replicate to each other.
type pair struct {
	sites map[string]*opened
	disks map[string]vfs.FS
	late  atomic.Bool // nothing of volumeC arrives anywhere

	listeners map[string]*atomic.Pointer[bufconn.Listener]
	stops     map[string]func()
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{sites: map[string]*opened{}, disks: map[string]vfs.FS{"a": vfs.NewMem(), "b": vfs.NewMem()}, stops: map[string]func(){},
		listeners: map[string]*atomic.Pointer[bufconn.Listener]{"a": {}, "b": {}}}
	p.start(t, "a", "b")
	p.start(t, "b", "a")
	t.Cleanup(func() {
		p.stops["a"]()
		p.stops["b"]()
	})
	return p
}

// start opens a site and its entrance.
func (p *pair) start(t *testing.T, name, peer string) {
	t.Helper()
	to := p.listeners[peer]
	conn, err := grpc.NewClient("passthrough:"+peer, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			if l := to.Load(); l != nil {
				return l.DialContext(ctx)
			}
			return nil, errors.New("the site is down")
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, c *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := next(ctx, d, c, method, opts...)
			return late{s, volumeC, &p.late}, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	ex := &exports{}
	s, err := site.Open(t.Context(), site.Config{Name: name, Root: "/root", FS: p.disks[name], Exports: ex, SegmentBytes: journal.MinSegmentBytes,
		Peers: map[string]site.Peer{peer: {Conn: conn}}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	server, err := replication.NewServer(replication.ServerConfig{
		Site: name, Groups: s.Groups().Standings(), Stores: s.Replicas(), Peer: func(context.Context) (string, error) { return peer, nil }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Groups().SetFencer(groups.OneProcess(server))
	l, g := bufconn.Listen(1<<20), grpc.NewServer()
	server.Register(g)
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(l) })
	p.listeners[name].Store(l)
	p.sites[name] = &opened{s, ex}
	p.stops[name] = func() {
		p.listeners[name].Store(nil)
		g.Stop()
		serving.Wait()
		if err := errors.Join(server.Close(), s.Close(), conn.Close()); err != nil {
			t.Error(err)
		}
	}
}

// until waits for a condition.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick, end := time.NewTicker(5*time.Millisecond), time.After(time.Minute)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (o *opened) put(t *testing.T, id journal.VolumeID, value byte) {
	t.Helper()
	if err := o.exports.device(id).WriteAt(t.Context(), bytes.Repeat([]byte{value}, 512), 0, true); err != nil {
		t.Fatal(err)
	}
}

func (o *opened) take(t *testing.T) group.Point {
	t.Helper()
	p, _, err := o.Groups().TakePoint(t.Context(), "shop", "")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// holdsPoint reports whether a site has a point of the group, or a newer one.
func (o *opened) holdsPoint(n journal.CheckpointNumber) bool {
	p, err := o.Groups().NewestPoint(context.Background(), "shop")
	return err == nil && p != nil && p.Checkpoint >= n
}

func (o *opened) isReplica(term group.Term) bool {
	st, err := o.Groups().State("shop")
	return err == nil && st.Role == group.RoleReplica && st.Term == term
}

// withLateMember makes a group of two members on site a, of which the second has not
// arrived on site b.
func withLateMember(t *testing.T) *pair {
	t.Helper()
	p := newPair(t)
	a, b := p.sites["a"], p.sites["b"]
	settings := quiet()
	settings.ReplicateTo = "b"
	if err := a.CreateVolume(t.Context(), site.NewVolume{ID: volumeA, Name: "a", SizeBytes: volumeBytes, Group: "shop", Settings: settings}); err != nil {
		t.Fatal(err)
	}
	a.put(t, volumeA, 1)
	first := a.take(t)
	until(t, "site b to have the first point", func() bool { return b.holdsPoint(first.Checkpoint) })
	p.late.Store(true)
	if err := a.CreateVolume(t.Context(), site.NewVolume{ID: volumeC, Name: "c", SizeBytes: volumeBytes, Group: "shop", Settings: settings}); err != nil {
		t.Fatal(err)
	}
	a.put(t, volumeC, 2)
	a.take(t)
	until(t, "site b to know of the new member", func() bool {
		st, err := b.Groups().State("shop")
		return err == nil && len(st.Members) == 2
	})
	return p
}

// TestAFailoverGoesOnWithoutAMemberThatNeverArrived: a site is failed over to while the
// first image of one member is on its way. The group goes on without that one, over a
// restart as well, and what the old primary has of it is there again after a failback.
func TestAFailoverGoesOnWithoutAMemberThatNeverArrived(t *testing.T) {
	p := withLateMember(t)
	a, b := p.sites["a"], p.sites["b"]
	out, err := b.Groups().Failover(t.Context(), "shop", "latest", false)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.content(t, volumeA); got != 1 {
		t.Errorf("the member that is there holds %d, want 1", got)
	}
	if dev := b.exports.device(volumeC); dev != nil {
		t.Error("an empty volume was made of the member that is not there")
	}
	if _, err := b.Attach(t.Context(), volumeC, 512, false); !errors.Is(err, groups.ErrAbsent) {
		t.Errorf("attach: %v, want ErrAbsent", err)
	}
	if v, err := b.Volume(volumeC); err != nil || !errors.Is(v.DeviceErr, groups.ErrAbsent) || v.Err != nil {
		t.Errorf("volume %+v, %v: it does not say that it is absent", v, err)
	}
	until(t, "site a to give way", func() bool { return a.isReplica(out.Term) })

	p.stops["b"]()
	p.start(t, "b", "a")
	b = p.sites["b"]
	// All that is done to groups.
	b.put(t, volumeA, 3)
	if _, err := b.Groups().PinPoint(t.Context(), "shop", "snap", ""); err != nil {
		t.Fatal(err)
	}
	if err := b.UnpinPoint(t.Context(), "snap"); err != nil {
		t.Fatal(err)
	}
	settings := quiet()
	settings.ReplicateTo = "a"
	if err := b.Groups().Modify(t.Context(), "shop", settings); err != nil {
		t.Fatal(err)
	}
	b.put(t, volumeA, 4)
	point := b.take(t)
	if len(point.Members) != 1 {
		t.Errorf("point of %v, want one of the member that is there", point.Members)
	}
	f, err := b.CreateFork(t.Context(), site.NewFork{Name: "try", Group: "shop", At: "latest"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.CommitFork(t.Context(), "shop", f.Name, false); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Groups().UndoRewind(t.Context(), "shop", false); err != nil {
		t.Fatal(err)
	}
	b.put(t, volumeA, 5)
	back := b.take(t)
	until(t, "site a to hold a point of the new primary", func() bool { return a.holdsPoint(back.Checkpoint) })
	if got := a.content(t, volumeC); got != 2 {
		t.Errorf("what the old primary has of the absent member is %d, want 2", got)
	}

	p.late.Store(false)
	if out, err = a.Groups().Failover(t.Context(), "shop", "latest", false); err != nil {
		t.Fatal(err)
	}
	if one, other := a.content(t, volumeA), a.content(t, volumeC); one != 5 || other != 2 {
		t.Errorf("site a has %d and %d, want 5 and 2", one, other)
	}
	until(t, "site b to give way", func() bool { return b.isReplica(out.Term) })
	a.put(t, volumeC, 6)
	whole := a.take(t)
	if len(whole.Members) != 2 {
		t.Errorf("point of %v, want one of both members", whole.Members)
	}
	until(t, "site b to have both members", func() bool { return b.holdsPoint(whole.Checkpoint) })
	if _, err := b.Groups().Failover(t.Context(), "shop", "latest", false); err != nil {
		t.Fatal(err)
	}
	if one, other := b.content(t, volumeA), b.content(t, volumeC); one != 5 || other != 6 {
		t.Errorf("site b has %d and %d, want 5 and 6", one, other)
	}
}

// TestAnAbsentMemberCanBeRemoved: the old primary never comes back, and the member of which
// there is nothing does not stay in the group for ever. If it comes back all the same it
// keeps what it has of it.
func TestAnAbsentMemberCanBeRemoved(t *testing.T) {
	p := withLateMember(t)
	a, b := p.sites["a"], p.sites["b"]
	out, err := b.Groups().Failover(t.Context(), "shop", "latest", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.RemoveReplica(t.Context(), volumeA); !errors.Is(err, group.ErrRole) {
		t.Errorf("a member that is there: %v, want ErrRole", err)
	}
	if err := b.RemoveReplica(t.Context(), volumeC); err != nil {
		t.Fatal(err)
	}
	if st, err := b.Groups().State("shop"); err != nil || len(st.Members) != 1 {
		t.Errorf("group %+v, %v", st, err)
	}
	until(t, "site a to give way", func() bool { return a.isReplica(out.Term) })
	until(t, "site a to keep what left the group", func() bool {
		v, err := a.Volume(volumeC)
		return err == nil && v.Retired && v.Open
	})
}

// TestAReplicaWithoutItsStoreTakesAnImage: a volume that the site, as the primary that it was,
// did not make to the end, or whose store is gone, is one of which there is
// nothing once it is a replica. It keeps nobody from failing over, and an image can come.
func TestAReplicaWithoutItsStoreTakesAnImage(t *testing.T) {
	all := append(slices.Clone(members), volumeC)
	for name, bring := range map[string]func(t *testing.T, s *opened, fault *vfs.Fault) *opened{
		"not made": func(t *testing.T, s *opened, fault *vfs.Fault) *opened {
			fault.FailFrom(fault.Count(vfs.OpCreate)+1, vfs.ErrNoSpace, vfs.OpCreate)
			if err := s.create(volumeC, nil); !errors.Is(err, journal.ErrFull) && !errors.Is(err, vfs.ErrNoSpace) {
				t.Fatalf("create on a full disk: %v", err)
			}
			fault.Mend()
			follow(t, s, 2, all, nil)
			return s
		},
		"gone": func(t *testing.T, s *opened, fault *vfs.Fault) *opened {
			if err := s.create(volumeC, nil); err != nil {
				t.Fatal(err)
			}
			follow(t, s, 2, all, nil)
			mustClose(t, s)
			if err := fault.RemoveAll("/root/volumes/" + volumeC.String()); err != nil {
				t.Fatal(err)
			}
			return mustOpen(t, fault)
		},
	} {
		t.Run(name, func(t *testing.T) {
			fault := vfs.NewFault(vfs.NewMem())
			s := bring(t, prepared(t, fault), fault)
			if _, err := s.Replicas().Replica(t.Context(), "shop", volumeC); !errors.Is(err, replication.ErrNoReplica) {
				t.Errorf("its store: %v, want ErrNoReplica, at which an image is sent", err)
			}
			if _, err := s.Groups().Failover(t.Context(), "shop", "pin:before", false); err != nil {
				t.Error(err)
			}
			s.expect(t, 1)
			mustClose(t, s)
		})
	}
}
