package fleet_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/lockstep-csi/lockstep/driver/enginepod"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
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

// process is one engine.
type process struct {
	node  string
	made  string // of which template
	pod   *enginepod.Pod
	srv   *grpc.Server
	l     *bufconn.Listener
	ended sync.WaitGroup
	// faults, unless nil, is what the engine sees of its backing volume. It is gone once
	// over is closed, and dying until then; guarded by cluster.mu.
	faults *vfs.Fault
	dying  bool
	over   chan struct{}
	devMu  sync.Mutex
	dev    *device // guarded by devMu
	// fallback is that of its device, unfit why it gets none.
	fallback, unfit error
	waiting         func() error // see cluster, also attaching
	attaching       func()
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

// Ensure implements fleet.Backing.
func (c *cluster) Ensure(ctx context.Context, spec fleet.BackingSpec) (fleet.Placement, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unbound {
		c.mu.Unlock()
		<-ctx.Done()
		c.mu.Lock()
		return fleet.Placement{}, ctx.Err()
	}
	if c.full {
		return fleet.Placement{}, fleet.ErrExhausted
	}
	if c.backing[spec.Volume] == nil {
		fs := vfs.NewMem()
		if err := fs.MkdirAll("/backing"); err != nil {
			return fleet.Placement{}, err
		}
		c.backing[spec.Volume], c.classes[spec.Volume] = fs, spec.Class
		if spec.JournalClass != "" {
			if err := fs.MkdirAll("/journal"); err != nil {
				return fleet.Placement{}, err
			}
			c.journals[spec.Volume] = spec.JournalBytes
		}
		if err := fs.SyncDir("/"); err != nil {
			return fleet.Placement{}, err
		}
	}
	return fleet.Placement{Lease: true, Pending: c.scheduled && c.engines[spec.Volume] == nil}, nil
}

// Expand implements fleet.Backing.
func (c *cluster) Expand(_ context.Context, spec fleet.BackingSpec) error {
	c.mu.Lock()
	c.tries++
	meanwhile := c.meanwhile
	c.meanwhile = nil
	c.mu.Unlock()
	if meanwhile != nil {
		meanwhile()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rigid {
		return fleet.ErrNotExpandable
	}
	if c.refusals > 0 {
		c.refusals--
		return fleet.ErrExhausted
	}
	c.expanded[spec.Volume], c.rooms[spec.Volume] = spec.VolumeBytes, spec.JournalBytes
	if spec.JournalClass != "" {
		c.journals[spec.Volume] = spec.JournalBytes
	}
	return nil
}

// journalRoom is the budget that a journal's own backing volume has room for.
func (c *cluster) journalRoom(id journal.VolumeID) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.journals[id]
}

// expandedTo is the size of a volume that its backing volume was last made big
// enough for; 0: it never was.
func (c *cluster) expandedTo(id journal.VolumeID) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.expanded[id]
}

// Label implements fleet.Backing.
func (c *cluster) Label(_ context.Context, spec fleet.BackingSpec) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.groups[spec.Volume] = spec.Group
	return nil
}

// Delete implements fleet.Backing.
func (c *cluster) Delete(_ context.Context, id journal.VolumeID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.engines[id] != nil {
		c.t.Errorf("backing volume of %s deleted under its engine", id)
	}
	delete(c.backing, id)
	return nil
}

// Run implements fleet.Engines.
func (c *cluster) Run(ctx context.Context, spec fleet.EngineSpec, placed func(node string)) (fleet.Endpoint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if run := c.run; run != nil {
		c.mu.Unlock()
		err := run(ctx, spec)
		c.mu.Lock()
		if err != nil {
			return fleet.Endpoint{}, err
		}
	}
	node := spec.Node
	if node == "" {
		node = "any"
	}
	if p := c.engines[spec.Volume]; p != nil {
		if spec.Node != "" && p.node != spec.Node {
			return fleet.Endpoint{}, fleet.ErrElsewhere
		}
		return fleet.Endpoint{Address: spec.Volume.String(), Node: p.node, Template: p.made}, nil
	}
	if begin := c.begin; begin != nil {
		c.mu.Unlock()
		placed(node)
		err := begin(ctx, spec)
		c.mu.Lock()
		if err != nil {
			return fleet.Endpoint{}, err
		}
	}
	p := &process{over: make(chan struct{}), node: node, made: c.template, fallback: c.fallback, unfit: c.unfit, waiting: c.waiting, attaching: c.attaching}
	backing := c.backing[spec.Volume]
	if backing == nil {
		return fleet.Endpoint{}, errors.New("no backing volume")
	}
	var fs vfs.FS = backing
	if c.files != nil {
		fs = c.files(fs)
	}
	if c.died != nil {
		p.faults = vfs.NewFault(backing)
		fs = p.faults
	}
	var err error
	var shown enginepod.Exporter = unseen{}
	if c.shown != nil {
		shown = c.shown
	}
	journalDir := ""
	if spec.OwnJournal {
		journalDir = "/journal"
	}
	p.pod, err = enginepod.Open(enginepod.Config{Volume: spec.Volume, Dir: "/backing", JournalDir: journalDir, Devices: p, DialEngine: c.dial, DialPeer: c.dialPeer,
		Site: c.site, Peer: toldPeer, Exports: shown, SegmentBytes: journal.MinSegmentBytes, FS: fs})
	if err != nil {
		return fleet.Endpoint{}, err
	}
	p.l, p.srv = bufconn.Listen(1<<20), grpc.NewServer(grpc.MaxRecvMsgSize(replication.MaxMessageBytes), grpc.ChainStreamInterceptor(c.countCheckpoints))
	control.NewServer(p.pod, clock.Wall{}).Register(p.srv)
	p.pod.RegisterStreams(p.srv)
	p.ended.Go(func() { _ = p.srv.Serve(p.l) })
	c.engines[spec.Volume] = p
	c.starts++
	if c.ran != nil {
		c.ran(spec.Volume, p)
	}
	return fleet.Endpoint{Address: spec.Volume.String(), Node: node, Template: p.made}, nil
}

// HandOver implements fleet.Engines: the engine ends, and Run starts its
// successor.
func (c *cluster) HandOver(ctx context.Context, spec fleet.EngineSpec) error {
	if c.handOver != nil {
		if err := c.handOver(ctx, spec); err != nil {
			return err
		}
	}
	c.kill(spec.Volume)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handed = append(c.handed, spec.Volume)
	return nil
}

// Upgrade implements fleet.Engines.
func (c *cluster) Upgrade(ctx context.Context, spec fleet.EngineSpec) error {
	return c.HandOver(ctx, spec)
}

// Template implements fleet.Engines.
func (c *cluster) Template() (template string, manual bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looks++
	return c.template, c.manual, nil
}

// Stop implements fleet.Engines.
func (c *cluster) Stop(ctx context.Context, id journal.VolumeID) error {
	c.mu.Lock()
	stop := c.stop
	c.mu.Unlock()
	if stop != nil {
		if err := stop(ctx); err != nil {
			return err
		}
	}
	c.kill(id)
	return nil
}

// kill ends an engine's process.
func (c *cluster) kill(id journal.VolumeID) {
	c.mu.Lock()
	p := c.engines[id]
	if p != nil && p.faults != nil {
		c.mu.Unlock()
		c.end(id, p)
		return
	}
	delete(c.engines, id)
	c.mu.Unlock()
	if p == nil {
		return
	}
	p.srv.Stop()
	p.ended.Wait()
	if err := p.pod.Close(); err != nil {
		c.t.Errorf("close engine of %s: %v", id, err)
	}
}

// end ends an engine whose backing volume may have crashed. It is there until it is over.
func (c *cluster) end(id journal.VolumeID, p *process) {
	c.mu.Lock()
	first := !p.dying
	p.dying = true
	c.mu.Unlock()
	if !first {
		<-p.over
		return
	}
	p.srv.Stop()
	p.ended.Wait()
	err := p.pod.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.faults.Crashed() {
		c.backing[id] = c.died(c.backing[id])
	} else if err != nil {
		c.t.Errorf("close engine of %s: %v", id, err)
	}
	delete(c.engines, id)
	close(p.over)
}

func (c *cluster) dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			c.mu.Lock()
			var l *bufconn.Listener
			deaf := c.deaf
			for id, p := range c.engines {
				if id.String() == address {
					l = p.l
				}
			}
			c.mu.Unlock()
			if l == nil || deaf {
				return nil, errors.New("nobody listens there")
			}
			c.mu.Lock()
			c.connections++
			c.mu.Unlock()
			return l.DialContext(ctx)
		}))
}

// device is what an engine has attached; there is no kernel.
type device struct {
	engine.Device
	busy bool
	gone bool // withdrawn
	lost chan struct{}
	// fallback is why it is not over io_uring.
	fallback error
}

func (p *process) Attach(_ context.Context, _ control.Attach, dev engine.Device, _ *string, keep func(string) error) (enginepod.Device, error) {
	if p.unfit != nil {
		return nil, p.unfit
	}
	if p.attaching != nil {
		p.attaching()
	}
	if err := keep("0123456789abcdef"); err != nil {
		return nil, err
	}
	p.devMu.Lock()
	defer p.devMu.Unlock()
	p.dev = &device{Device: dev, lost: make(chan struct{}), fallback: p.fallback}
	return p.dev, nil
}

// Waiting implements enginepod.Devices: there is no node that would keep a device.
func (p *process) Waiting(context.Context, *string) (*control.Attach, error) {
	if p.waiting != nil {
		return nil, p.waiting()
	}
	return nil, nil
}

func (d *device) Path() string                       { return "/dev/test0" }
func (d *device) Resize(context.Context) error       { return nil }
func (d *device) Transport() (fuse.Transport, error) { return fuse.TransportDevice, d.fallback }
func (d *device) Lost() <-chan struct{}              { return d.lost }
func (d *device) Release() error                     { return nil }
func (d *device) Abandon(context.Context) error {
	d.gone = true
	return nil
}
func (d *device) Unused(ctx context.Context) error {
	return d.Detach(ctx)
}
func (d *device) Withdraw(ctx context.Context) error {
	if err := d.Detach(ctx); err != nil {
		return err
	}
	d.gone = true
	return nil
}
func (d *device) Detach(context.Context) error {
	if d.busy {
		return control.ErrDeviceInUse
	}
	return nil
}

// device is a volume's attached device.
func (c *cluster) device(id journal.VolumeID) *device {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.engines[id]
	dev := p.attached()
	if dev == nil {
		c.t.Fatalf("volume %s is not attached", id)
	}
	return dev
}

// attached is the device of an engine, which may be none; nil: it has none.
func (p *process) attached() *device {
	if p == nil {
		return nil
	}
	p.devMu.Lock()
	defer p.devMu.Unlock()
	return p.dev
}

// has reports whether a volume has a backing volume.
func (c *cluster) has(id journal.VolumeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.backing[id] != nil
}

func (c *cluster) node(id journal.VolumeID) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.engines[id]; p != nil {
		return p.node
	}
	return ""
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

// unseen is an engine's NBD server, to which nobody connects.
type unseen struct{}

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
