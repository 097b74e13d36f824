package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
	"github.com/lockstep-csi/lockstep/replication/gateway"
)

const (
	lifeSectors = 16 // of which the last ones are there when a volume has been expanded
	lifeSteps   = 60
	lifeSeeds   = 20
	// lifeBound is how long whatever has to come about by itself may take, of the life's
	// own time: nothing waits for a machine.
	lifeBound = 5 * time.Minute
)

// volumeImage is what some sectors of a volume hold, each one number.
type volumeImage [lifeSectors]uint32

// cut is what all members of a group hold at one moment.
type cut map[journal.VolumeID]volumeImage

// agrees reports whether a cut holds the same as another one, in the members of both.
func (c cut) agrees(other cut) bool {
	for id, image := range c {
		if o, ok := other[id]; ok && o != image {
			return false
		}
	}
	return true
}

// pointKey tells recovery points apart: of two sites that were primary one after the
// other, each may have given out a number.
type pointKey struct {
	number journal.CheckpointNumber
	time   int64
}

func keyOf(p *group.Point) pointKey { return pointKey{p.Checkpoint, p.Time.UnixNano()} }

// life is two clusters of one group, and what each moment of it has to hold: the history of
// an application that writes to one of them, whatever becomes of engines, controllers and links.
type life struct {
	t       *testing.T
	ctx     context.Context
	rng     *rand.Rand
	sites   map[string]*lifeFleet
	primary string // the site that the application writes to
	next    uint32 // number that is written next
	power   bool   // engines lose what was not flushed; else nothing but their process
	joined  sync.WaitGroup

	live cut
	// maybe is what the members may hold beside live, because a call has failed.
	maybe []cut
	// past is every moment of the application's data, in the order in which they were.
	past   []cut
	points map[pointKey]cut
	era    int                        // rises whenever points are given up: by a failover, a rewind, an undo
	eras   map[pointKey]int           // in which each point was taken
	sizes  map[journal.VolumeID]int64 // that the primary's devices have, as far as anybody was told
	grown  map[journal.VolumeID]int64 // that somebody has asked for
	// pointSizes are those that the members had at points, or less.
	pointSizes map[pointKey]map[journal.VolumeID]int64
	lastVolume byte
	// back is what an undo returns to; nil: no rewind is open. begun is what one would
	// that a rewind which failed may have opened.
	back, begun cut
	// promoting is the site that a failover to has failed.
	promoting string
	unserved  bool // something has failed: see serve
	counts    map[string]int
	trace     []string
}

// lifeFleet is one of the clusters: its gateway, its controller while that runs, and what the
// application has attached there.
type lifeFleet struct {
	*cluster
	peer  string
	fleet *fleet.Fleet // nil while no controller runs
	halt  func()       // ends the controller
	// using are the volumes that somebody uses here, and where; one who was left behind
	// by a failover still does.
	using map[journal.VolumeID]string
	// own is the past of the site where another one has become primary since; nil: it
	// has followed that. stale is what it held last.
	own   []cut
	stale cut
	views lifeViews
	// pins are snapshots that were taken here, unpinned those that are not there any more.
	pins     map[string]*lifePin
	unpinned map[string]bool
	retired  map[journal.VolumeID]bool // volumes that are to be deleted

	link     sync.Mutex
	door     *bufconn.Listener
	entrance *bufconn.Listener // of the controller; nil while none runs
	apart    bool              // nobody gets to the gateway
	conns    []net.Conn        // from the peer
	dead     bool              // nothing is committed any more; see doom
}

// lifeViews is what the engines of a cluster show.
type lifeViews struct {
	mu      sync.Mutex
	devices map[string]engine.Device // guarded by mu
}

func (v *lifeViews) Add(name string, dev engine.Device, _ string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.devices[name] = dev
	return nil
}

func (v *lifeViews) Remove(_ context.Context, name string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.devices, name)
	return nil
}

func (v *lifeViews) device(name string) engine.Device {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.devices[name]
}

// skewed is the clock of a site that is not quite the other one's.
type skewed struct {
	clock.Wall
	by time.Duration
}

func (s skewed) Now() time.Time { return time.Now().Add(s.by) }

func newLife(t *testing.T, seed uint64) *life {
	t.Helper()
	l := &life{t: t, ctx: t.Context(), rng: rand.New(rand.NewPCG(seed, 3)), primary: "a", next: 1, live: cut{}, points: map[pointKey]cut{}, eras: map[pointKey]int{},
		sizes: map[journal.VolumeID]int64{}, grown: map[journal.VolumeID]int64{}, pointSizes: map[pointKey]map[journal.VolumeID]int64{},
		counts: map[string]int{}, sites: map[string]*lifeFleet{}}
	l.power = l.rng.IntN(2) == 0
	for i, name := range []string{"a", "b"} {
		s := &lifeFleet{cluster: newCluster(t), peer: string(rune('a' + 'b' - name[0])), using: map[journal.VolumeID]string{}, views: lifeViews{devices: map[string]engine.Device{}},
			pins: map[string]*lifePin{}, unpinned: map[string]bool{}, retired: map[journal.VolumeID]bool{}}
		l.sites[name] = s
		s.site, s.shown, s.clock, s.upgradeEvery = name, &s.views, skewed{by: time.Duration(i) * 123457 * time.Nanosecond}, 2*time.Second
		s.linger = time.Duration(1+l.rng.IntN(10)) * time.Second
		lost := rand.New(rand.NewPCG(seed, 4+uint64(i)))
		s.died = func(m *vfs.Mem) *vfs.Mem {
			if l.power {
				return m.Crash(lost)
			}
			return m.KillClone()
		}
		s.ran = l.reap(s)
	}
	for _, s := range l.sites {
		peer := l.sites[s.peer]
		s.peers[s.peer] = fleet.Peer{Address: s.peer, Conn: dialDoor(t, peer)}
		s.dialPeer = func(site, _ string) (*grpc.ClientConn, error) {
			return grpc.NewClient("passthrough:"+site, grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return peer.accept(ctx) }))
		}
		s.openDoor(t)
	}
	for _, name := range []string{"a", "b"} {
		l.start(l.sites[name])
	}
	t.Cleanup(l.joined.Wait)
	t.Cleanup(func() {
		for _, s := range l.sites {
			s.halt()
			for id := range s.backing {
				s.kill(id)
			}
		}
	})
	return l
}

// reap ends engines whose disk has crashed, or that are to end for another reason.
func (l *life) reap(s *lifeFleet) func(journal.VolumeID, *process) {
	return func(id journal.VolumeID, p *process) {
		l.joined.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for !p.faults.Crashed() {
				select {
				case <-tick.C:
					continue
				case err := <-p.pod.Fatal():
					l.t.Logf("engine of volume %s ends: %v", id, err)
				case <-p.over:
					return
				}
				break
			}
			s.end(id, p)
		})
	}
}

func dialDoor(t *testing.T, s *lifeFleet) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:"+s.site, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.accept(ctx) }))
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

// openDoor begins a site's gateway.
func (s *lifeFleet) openDoor(t *testing.T) {
	t.Helper()
	toController := dialListener(t, func() *bufconn.Listener {
		s.link.Lock()
		defer s.link.Unlock()
		return s.entrance
	})
	gw, err := gateway.New(gateway.Config{Site: s.site, Engines: &entrance{c: s.cluster}, DialEngine: s.dial, Controller: toController,
		Peer: func(context.Context) (string, error) { return s.peer, nil }, Clock: clock.Wall{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(append(gateway.ServerOptions(nil), grpc.Creds(insecure.NewCredentials()))...)
	gw.Register(server)
	s.door = bufconn.Listen(1 << 20)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(s.door) })
	t.Cleanup(func() {
		server.Stop()
		gw.Close()
		serving.Wait()
	})
}

// accept connects the peer to a site's gateway.
func (s *lifeFleet) accept(ctx context.Context) (net.Conn, error) {
	s.link.Lock()
	defer s.link.Unlock()
	if s.apart {
		return nil, errors.New("the site cannot be reached")
	}
	conn, err := s.door.DialContext(ctx)
	if err == nil {
		s.conns = append(s.conns, conn)
	}
	return conn, err
}

// setApart lets connections to a site come, or ends those that there are.
func (s *lifeFleet) setApart(apart bool) {
	s.link.Lock()
	defer s.link.Unlock()
	s.apart = apart
	if !apart {
		return
	}
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
}

// start begins a site's controller, on what the one before has committed.
func (l *life) start(s *lifeFleet) {
	l.t.Helper()
	s.db, s.dead = s.db.Clone(), false
	f := s.open()
	announcements, err := replication.NewAnnounceServer(replication.AnnounceServerConfig{Site: s.site, Groups: f.Groups().Standings(), Peer: toldPeer})
	if err != nil {
		l.fatalf("controller of site %s: %v", s.site, err)
	}
	f.SetHolder(announcements)
	listener, server := bufconn.Listen(1<<20), grpc.NewServer()
	announcements.Register(server)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	s.fleet = f
	s.halt = sync.OnceFunc(func() {
		s.setEntrance(nil)
		server.Stop()
		serving.Wait()
		s.fleet = nil
		closeFleet(l.t, f)
	})
	s.setEntrance(listener)
	l.counts["controllers"]++
}

func (s *lifeFleet) setEntrance(to *bufconn.Listener) {
	s.link.Lock()
	defer s.link.Unlock()
	s.entrance = to
}

// device is what somebody uses of a volume at a site; nil: nobody does, or it is not
// served now.
func (s *lifeFleet) device(id journal.VolumeID) *device {
	if _, used := s.using[id]; !used {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.engines[id].attached()
}

// faultsOf is what an engine has for a disk; nil: there is none.
func (s *lifeFleet) faultsOf(id journal.VolumeID) *vfs.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.engines[id]; p != nil {
		return p.faults
	}
	return nil
}

func (l *life) logf(format string, args ...any) {
	l.trace = append(l.trace, time.Now().Format("04:05.000 ")+fmt.Sprintf(format, args...))
}

func (l *life) fatalf(format string, args ...any) {
	l.t.Helper()
	l.t.Fatalf("%s\nwhat happened before:\n%s", fmt.Sprintf(format, args...), strings.Join(l.trace[max(0, len(l.trace)-160):], "\n"))
}

func (l *life) main() *lifeFleet { return l.sites[l.primary] }

func (l *life) other() *lifeFleet { return l.sites[l.main().peer] }

// members are the volumes of the application, ascending.
func (l *life) members() []journal.VolumeID {
	var ids []journal.VolumeID
	for id := range l.live {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareVolumes)
	return ids
}

// enter says that the application's data is another from now on.
func (l *life) enter(c cut) {
	l.live, l.maybe = c, nil
	l.past = append(l.past, c)
}
