package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
	"github.com/lockstep-csi/lockstep/replication/gateway"
)

// entrance is a site's gateway and the announcement service of its controller.
type entrance struct {
	c       *cluster
	l       *bufconn.Listener
	control *bufconn.Listener

	fleet *fleet.Fleet
}

// Resolve implements gateway.Engines.
func (e *entrance) Resolve(_ context.Context, id journal.VolumeID) (string, error) {
	if e.c.node(id) == "" {
		return "", gateway.ErrNoEngine
	}
	return id.String(), nil
}

// newEntrance opens the door of a site for another one.
func newEntrance(t *testing.T, c *cluster, f *fleet.Fleet, peer string) *entrance {
	t.Helper()
	e := &entrance{c: c, l: bufconn.Listen(1 << 20), control: bufconn.Listen(1 << 20), fleet: f}
	announcements, err := replication.NewAnnounceServer(replication.AnnounceServerConfig{Site: c.site, Groups: f.Groups().Standings(), Peer: toldPeer})
	if err != nil {
		t.Fatal(err)
	}
	f.SetHolder(announcements)
	controller := grpc.NewServer()
	announcements.Register(controller)
	toController := dialListener(t, func() *bufconn.Listener { return e.control })
	gw, err := gateway.New(gateway.Config{Site: c.site, Engines: e, DialEngine: c.dial, Controller: toController,
		Peer: func(context.Context) (string, error) { return peer, c.refuses() }, Clock: clock.Wall{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	door := grpc.NewServer(append(gateway.ServerOptions(nil), grpc.Creds(insecure.NewCredentials()))...)
	gw.Register(door)
	var serving sync.WaitGroup
	serving.Go(func() { _ = controller.Serve(e.control) })
	serving.Go(func() { _ = door.Serve(e.l) })
	t.Cleanup(func() {
		door.Stop()
		gw.Close()
		controller.Stop()
		serving.Wait()
	})
	return e
}

// refuses is why no call of a peer begins.
func (c *cluster) refuses() error {
	if c.shut.Load() {
		return errors.New("the entrance is shut")
	}
	return nil
}

func dialListener(t *testing.T, to func() *bufconn.Listener) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:site", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			l := to()
			if l == nil {
				return nil, errors.New("the link is cut")
			}
			return l.DialContext(ctx)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// doors leads from each site's name to its entrance.
type doors struct {
	mu   sync.Mutex
	open map[string]*entrance
}

func (d *doors) listener(site string) *bufconn.Listener {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.open[site]; e != nil {
		return e.l
	}
	return nil
}

func (d *doors) set(site string, e *entrance) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open[site] = e
}

// newPair makes two sites that can reach each other.
func newPair(t *testing.T) (a, b *cluster, fa, fb *fleet.Fleet) {
	t.Helper()
	a, b, fa, fb, open := newSeparatePair(t)
	open()
	return a, b, fa, fb
}

// newSeparatePair makes two sites that can reach each other once they are
// connected.
func newSeparatePair(t *testing.T) (a, b *cluster, fa, fb *fleet.Fleet, connect func()) {
	t.Helper()
	d := &doors{open: map[string]*entrance{}}
	a, b = newCluster(t), newCluster(t)
	b.site = "b"
	for _, c := range []*cluster{a, b} {
		other := map[string]string{"a": "b", "b": "a"}[c.site]
		c.peers[other] = fleet.Peer{Address: other, Conn: dialListener(t, func() *bufconn.Listener { return d.listener(other) })}
		c.dialPeer = func(site, _ string) (*grpc.ClientConn, error) {
			return grpc.NewClient("passthrough:"+site, grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
					l := d.listener(site)
					if l == nil {
						return nil, errors.New("the link is cut")
					}
					return l.DialContext(ctx)
				}))
		}
	}
	fa, fb = a.open(), b.open()
	t.Cleanup(func() { closeFleet(t, fb) })
	ea, eb := newEntrance(t, a, fa, "b"), newEntrance(t, b, fb, "a")
	return a, b, fa, fb, func() { d.set("a", ea); d.set("b", eb) }
}

// How replication stands is known also while nothing is written: an engine tells
// of it without being asked.
func TestTheStateOfReplicationIsKnownWhileNothingHappens(t *testing.T) {
	a, _, fa, fb, connect := newSeparatePair(t)
	defer closeFleet(t, fa)
	v := newVolume(1, "shop")
	v.Settings.ReplicateTo = "b"
	mustCreate(t, fa, v)
	mustAttach(t, fa, 1, "node1")
	write(t, a.device(id(1)), 1)
	p := takePoint(t, fa, "shop")
	sending := func() replication.VolumeMetrics {
		s, err := fa.Groups().Summary(bounded(t), "shop")
		if err != nil || s.Sending == nil || len(s.Sending.Volumes) != 1 {
			t.Fatalf("summary %+v, %v", s, err)
		}
		return s.Sending.Volumes[0]
	}
	until(t, "the outage to be known", func() bool { m := sending(); return !m.Connected && m.LastError != nil && m.LagRecords > 0 })
	connect()
	until(t, "the replica to hold the point", func() bool {
		points, err := fb.Groups().Points(bounded(t), "shop")
		return err == nil && len(points) > 0 && points[len(points)-1].Checkpoint >= p.Checkpoint
	})
	until(t, "the end of the outage to be known", func() bool { m := sending(); return m.Connected && m.LagRecords == 0 })
}

func TestAGroupIsReplicatedFailedOverAndFailedBack(t *testing.T) {
	a, b, fa, fb := newPair(t)
	for n := range byte(2) {
		v := newVolume(n+1, "shop")
		v.Settings.ReplicateTo = "b"
		v.Attributes = map[string]string{"claim": "prod/data"}
		mustCreate(t, fa, v)
		mustAttach(t, fa, n+1, "node1")
		write(t, a.device(id(n+1)), 1)
	}
	p := takePoint(t, fa, "shop")
	holds := func(f *fleet.Fleet, number journal.CheckpointNumber) func() bool {
		return func() bool {
			points, err := f.Groups().Points(bounded(t), "shop")
			return err == nil && len(points) > 0 && points[len(points)-1].Checkpoint >= number
		}
	}
	until(t, "the replica to hold the point", holds(fb, p.Checkpoint))
	if v, err := fb.Volume(id(1)); err != nil || v.Attributes["claim"] != "prod/data" {
		t.Errorf("replica %+v, %v: the attributes did not come along", v, err)
	}
	if _, err := fb.Attach(bounded(t), id(1), "node9", plain); !errors.Is(err, group.ErrRole) {
		t.Errorf("attach a replica: %v, want ErrRole", err)
	}
	// A failover to a point that does not exist leaves replication as it was.
	if _, err := fb.Groups().Failover(bounded(t), "shop", "999999", false); !errors.Is(err, group.ErrNoPoint) {
		t.Fatalf("failover to no point: %v", err)
	}
	write(t, a.device(id(1)), 2)
	p = takePoint(t, fa, "shop")
	until(t, "replication to go on", holds(fb, p.Checkpoint))

	// Site a is lost as far as b knows: nothing of it is asked.
	out, err := fb.Groups().Failover(bounded(t), "shop", "latest", false)
	if err != nil {
		t.Fatal(err)
	}
	if out.Term < 2 || out.Point.Checkpoint < p.Checkpoint {
		t.Errorf("failover %+v, want term 2 and point %d at least", out, p.Checkpoint)
	}
	mustAttach(t, fb, 1, "node9")
	expect(t, b.device(id(1)), 2)
	write(t, b.device(id(1)), 3)
	// a learns of it, and gives up.
	until(t, "site a to be a replica", func() bool {
		st, err := fa.Groups().State("shop")
		return err == nil && st.Role == group.RoleReplica && st.Term == out.Term
	})
	if err := a.device(id(1)).WriteAt(ctx, make([]byte, 512), 0, false); err == nil {
		t.Error("the old primary takes writes")
	}
	for n := range byte(2) {
		mustDetach(t, fa, n+1)
	}
	var back group.Point
	until(t, "the new primary to take a point", func() bool {
		var err error
		back, _, err = fb.Groups().TakePoint(bounded(t), "shop", "")
		return err == nil
	})
	until(t, "site a to hold it", holds(fa, back.Checkpoint))
	mustDetach(t, fb, 1)
	if _, err := fa.Groups().Failover(bounded(t), "shop", "latest", false); err != nil {
		t.Fatal(err)
	}
	mustAttach(t, fa, 1, "node1")
	expect(t, a.device(id(1)), 3)
	if class := b.classes[id(1)]; class != "of-a" {
		t.Errorf("the replica lives on class %q, want that for site a", class)
	}
	closeFleet(t, fa)
}

// A replicated volume that changes its group does so at the replica, too, and
// keeps what the replica has of it.
func TestAReplicaFollowsIntoAnotherGroup(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	for n, name := range map[byte]string{1: "data", 2: "shop"} {
		v := newVolume(n, name)
		v.Settings.ReplicateTo = "b"
		mustCreate(t, fa, v)
		mustAttach(t, fa, n, "node1")
		write(t, a.device(id(n)), 1)
	}
	old := takePoint(t, fa, "data")
	until(t, "the replica to hold the point of before", func() bool {
		points, err := fb.Groups().Points(bounded(t), "data")
		return err == nil && len(points) > 0 && points[len(points)-1].Checkpoint >= old.Checkpoint
	})
	mustMove(t, fa, 1, "shop")
	write(t, a.device(id(1)), 2)
	now := takePoint(t, fa, "shop")
	until(t, "the replica to hold a point of both", func() bool {
		points, err := fb.Groups().Points(bounded(t), "shop")
		n := len(points)
		return err == nil && n > 0 && points[n-1].Checkpoint >= now.Checkpoint && len(points[n-1].Members) == 2
	})
	if _, err := fb.Groups().State("data"); !errors.Is(err, group.ErrNotFound) {
		t.Errorf("the replica still has the group that ended: %v", err)
	}
	if points, err := fb.Groups().Points(bounded(t), "data"); err != nil || len(points) == 0 {
		t.Errorf("the replica has lost the points of before: %d, %v", len(points), err)
	}
	if _, err := fb.Groups().Failover(bounded(t), "shop", "latest", false); err != nil {
		t.Fatal(err)
	}
	mustAttach(t, fb, 1, "node9")
	expect(t, b.device(id(1)), 2)
}

// A replica's engine runs also if its volume is looked at before the group that
// it is in is known: the members are made first, one after the other.
func TestEveryReplicaOfANewGroupIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.asked = synctest.Wait // what there was before has been looked at
		f := c.open()
		defer closeFleet(t, f)
		a := replication.Announcement{Group: "shop", Term: 1, Settings: group.Settings{}.WithDefaults()}
		for n := range byte(3) {
			a.Members = append(a.Members, replication.Member{Volume: id(n + 1), Name: fmt.Sprint("pvc-", n+1), SizeBytes: volumeBytes})
		}
		if err := f.Groups().Standings().Follow(bounded(t), "b", a); err != nil {
			t.Fatal(err)
		}
		for _, m := range a.Members {
			until(t, "an engine of volume "+m.Name, func() bool { return c.node(m.Volume) != "" })
		}
	})
}

// A volume that grows at its primary has a bigger backing volume at its replica
// before long, also where the first attempt fails and the controller is restarted.
func TestAReplicasBackingVolumeGrowsWithItsPrimary(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	replicated(t, a, fa, fb, 1)
	b.mu.Lock()
	b.refusals = 1
	b.mu.Unlock()
	if err := fa.ExpandVolume(bounded(t), id(1), 2*volumeBytes); err != nil {
		t.Fatal(err)
	}
	until(t, "the replica to know of it", func() bool {
		v, err := fb.Volume(id(1))
		return err == nil && v.SizeBytes == 2*volumeBytes
	})
	until(t, "its backing volume to be expanded", func() bool { return b.expandedTo(id(1)) == 2*volumeBytes })
	write(t, a.device(id(1)), 4)
	p := takePoint(t, fa, "shop")
	until(t, "the replica to hold a point of the bigger volume", func() bool {
		points, err := fb.Groups().Points(bounded(t), "shop")
		return err == nil && len(points) > 0 && points[len(points)-1].Checkpoint >= p.Checkpoint
	})
	if _, err := fb.Groups().Failover(bounded(t), "shop", "latest", false); err != nil {
		t.Fatal(err)
	}
	mustAttach(t, fb, 1, "node9")
	if got := b.device(id(1)).SizeBytes(); got != 2*volumeBytes {
		t.Errorf("after a failover the device has %d bytes, want %d", got, 2*volumeBytes)
	}
}

// Who has a claim at the site of the replica, as after a failback, cannot expand the volume
// there: nothing would grow but what the claim says, and its backing volume.
func TestAReplicaIsExpandedAtItsPrimary(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	replicated(t, a, fa, fb, 1)
	if err := fb.ExpandVolume(bounded(t), id(1), 2*volumeBytes); !errors.Is(err, group.ErrRole) {
		t.Errorf("expand the replica: %v, want ErrRole", err)
	}
	if v, err := fb.Volume(id(1)); err != nil || v.SizeBytes != volumeBytes || b.expandedTo(id(1)) != 0 {
		t.Errorf("the replica has %d bytes, %v, and a backing volume for %d", v.SizeBytes, err, b.expandedTo(id(1)))
	}
	if err := fa.ExpandVolume(bounded(t), id(1), 2*volumeBytes); err != nil {
		t.Fatal(err)
	}
	until(t, "the replica to know of it", func() bool {
		v, err := fb.Volume(id(1))
		return err == nil && v.SizeBytes == 2*volumeBytes
	})
	if err := fb.ExpandVolume(bounded(t), id(1), 2*volumeBytes); err != nil {
		t.Errorf("expand the replica to what it has: %v", err)
	}
}

// The settings of a replica are its primary's: a change here would be gone with the next
// announcement, and whoever asked for it would take it for done.
func TestAReplicasSettingsAreChangedAtItsPrimary(t *testing.T) {
	a, _, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	replicated(t, a, fa, fb, 1)
	st, err := fb.Groups().State("shop")
	if err != nil {
		t.Fatal(err)
	}
	changed := st.Settings
	changed.JournalBytes = 1 << 30
	if err := fb.Groups().Modify(bounded(t), "shop", changed); !errors.Is(err, group.ErrRole) {
		t.Errorf("change the replica's settings: %v, want ErrRole", err)
	}
	if now, err := fb.Groups().State("shop"); err != nil || now.Settings != st.Settings {
		t.Errorf("settings %+v, %v, want %+v", now.Settings, err, st.Settings)
	}
}
