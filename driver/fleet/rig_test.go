package fleet_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/lockstep-csi/lockstep/driver/enginepod"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

const volumeBytes = 1 << 20

// cluster is what a fleet works on: backing volumes that can be reached from
// every node, and real engines as processes on nodes. It implements
// fleet.Backing and fleet.Engines, and fails the test when two engines of one
// volume are there at a time.
type cluster struct {
	// shut: no call of a peer begins. What is under way goes on.
	shut  atomic.Bool
	t     *testing.T
	site  string
	db    *kv.Memory
	peers map[string]fleet.Peer
	// dialPeer is how its engines reach another site's gateway.
	dialPeer func(site, address string) (*grpc.ClientConn, error)
	// journalClass is that of the journals of its replicas; empty: none.
	journalClass string
	// asked, unless nil, is called for the class of each new replica.
	asked func()

	mu      sync.Mutex
	backing map[journal.VolumeID]*vfs.Mem
	classes map[journal.VolumeID]string // of the backing volumes
	groups  map[journal.VolumeID]string // that these say they are in
	// expanded is what backing volumes were expanded for; the next refusals
	// expansions fail.
	expanded map[journal.VolumeID]int64
	// journals are the budgets that journals' own backing volumes have room for.
	journals map[journal.VolumeID]int64
	// rooms are the budgets that backing volumes were expanded for, of journals
	// of their own or not.
	rooms    map[journal.VolumeID]int64
	refusals int
	// fallback is why devices are not over io_uring; nil: nobody asked for it.
	fallback error
	// rigid: backing volumes cannot grow. tries counts expansions asked for.
	rigid bool
	// meanwhile, when set, runs during the next expansion.
	meanwhile func()
	tries     int
	engines   map[journal.VolumeID]*process
	starts    int // engines started so far
	full      bool
	unbound   bool // claims are neither bound nor refused
	deaf      bool // engines do not answer
	// listed counts the checkpoints that engines sent in full.
	listed atomic.Int64
	// connections are those that engines took so far.
	connections int
	clock       clock.Clock
	// upgradeEvery is the fleet's, and its keepPointEvery; 0: 5 ms, and 20 ms.
	upgradeEvery time.Duration
	// template is what engines are made of, manual that those that run keep
	// theirs. handOver, unless nil, is called by each handover before it does
	// anything; handed are the volumes of those that were done.
	// looks counts who asked for the template.
	template string
	manual   bool
	looks    int
	handOver func(ctx context.Context, spec fleet.EngineSpec) error
	handed   []journal.VolumeID
	// run, unless nil, is called by each Run before it does anything, and begin
	// when the engine has been given its node and has not started.
	run   func(ctx context.Context, spec fleet.EngineSpec) error
	begin func(ctx context.Context, spec fleet.EngineSpec) error
	// stop, unless nil, is called by each Stop before it does anything.
	stop func(ctx context.Context) error
	// scheduled: backing volumes wait for an engine, and the scheduler chooses its node.
	scheduled bool
	// copying, unless nil, is called by an engine whose image is to be copied, before it
	// sends any of it.
	copying func(ctx context.Context) error
	// unfit, unless nil, is why engines cannot serve a device.
	unfit error
	// waiting, unless nil, is called by engines that ask what waits on their node, and
	// attaching by those that attach a device.
	waiting   func() error
	attaching func()
	// files, unless nil, is what engines see of their backing volumes.
	files func(vfs.FS) vfs.FS
	// shown, unless nil, is where engines show volumes and views.
	shown enginepod.Exporter
	// died, unless nil, says what is left of a backing volume after a crash: each engine's
	// files are a process's faults then. ran is called for each engine that was started.
	died   func(*vfs.Mem) *vfs.Mem
	ran    func(id journal.VolumeID, p *process)
	linger time.Duration
	// expect is the fleet's; 0: longer than any test.
	expect time.Duration
	// moveWait is the fleet's, and its engineWait; 0: its default.
	moveWait, engineWait time.Duration
	// logging, unless nil, is called with each message of the fleet's.
	logging func(message string)
	// viewing, unless nil, is called before each look into the fleet's database.
	viewing atomic.Pointer[func()]
}

// watched is a cluster's database as its fleet has it.
type watched struct {
	*kv.Memory
	c *cluster
}

func (w watched) View(fn func(kv.Tx) error) error {
	if viewing := w.c.viewing.Load(); viewing != nil {
		(*viewing)()
	}
	return w.Memory.View(fn)
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, site: "a", linger: 20 * time.Millisecond, peers: map[string]fleet.Peer{}, db: kv.NewMemory(), backing: map[journal.VolumeID]*vfs.Mem{}, classes: map[journal.VolumeID]string{}, groups: map[journal.VolumeID]string{}, expanded: map[journal.VolumeID]int64{}, journals: map[journal.VolumeID]int64{}, rooms: map[journal.VolumeID]int64{}, engines: map[journal.VolumeID]*process{}}
	t.Cleanup(func() {
		for id := range c.engines {
			c.kill(id)
		}
	})
	return c
}

// toldPeer believes whom the gateway names: there are no certificates here.
func toldPeer(ctx context.Context) (string, error) {
	return metadata.ValueFromIncomingContext(ctx, replication.PeerKey)[0], nil
}

// setPeer makes a site a peer; without a connection it is none any more.
func (c *cluster) setPeer(site string, p fleet.Peer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peers[site] = p
}

// open opens the fleet on what is committed, as a controller that starts.
func (c *cluster) open() *fleet.Fleet {
	c.t.Helper()
	f, err := fleet.Open(fleet.Config{Site: c.site, DB: watched{c.db, c}, Backing: c, Engines: c, Dial: c.dial,
		Peer: func(site string) (fleet.Peer, bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			p := c.peers[site]
			return p, p.Conn != nil
		},
		ReplicaBacking: func(_ context.Context, site, _ string) (fleet.BackingClass, error) {
			if c.asked != nil {
				c.asked()
			}
			return fleet.BackingClass{Class: "of-" + site, JournalClass: c.journalClass}, nil
		},
		Clock: c.clock, Linger: c.linger, Expect: cmp.Or(c.expect, time.Hour), MoveWait: c.moveWait, EngineWait: c.engineWait, UpgradeEvery: cmp.Or(c.upgradeEvery, 5*time.Millisecond), KeepPointEvery: cmp.Or(c.upgradeEvery, 20*time.Millisecond), Log: slog.New(logged{slog.NewTextHandler(c.t.Output(), nil), c.logging})})
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

// logged is a handler whose messages somebody else has first.
type logged struct {
	slog.Handler
	first func(message string)
}

func (l logged) Handle(ctx context.Context, r slog.Record) error {
	if l.first != nil {
		l.first(r.Message)
	}
	return l.Handler.Handle(ctx, r)
}

func (unseen) Add(string, engine.Device, string) error { return nil }
func (unseen) Remove(context.Context, string) error    { return nil }

func closeFleet(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func id(n byte) journal.VolumeID { return journal.VolumeID{n} }

func newVolume(n byte, groupName string) fleet.NewVolume {
	return fleet.NewVolume{ID: id(n), Name: fmt.Sprint("pvc-", n), SizeBytes: volumeBytes, Group: groupName, Backing: fleet.BackingClass{Class: "fast"},
		Settings: group.Settings{CheckpointInterval: 100 * time.Millisecond, BarrierTimeout: 5 * time.Second}}
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// until waits for a condition that the fleet reaches by itself.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}
