package enginepod_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/lockstep-csi/lockstep/driver/enginepod"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

const volumeBytes = 1 << 20

// network leads from an engine's address to its listener.
type network struct {
	mu        sync.Mutex
	listeners map[string]*bufconn.Listener
}

func newNetwork() *network { return &network{listeners: map[string]*bufconn.Listener{}} }

var errNoEngine = errors.New("nobody listens there")

// dial connects to an address, also to one where somebody listens later.
func (n *network) dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			n.mu.Lock()
			l := n.listeners[address]
			n.mu.Unlock()
			if l == nil {
				return nil, errNoEngine
			}
			return l.DialContext(ctx)
		}))
}

// devices is a node without a kernel: what is attached is written to directly.
type devices struct {
	name string
	boot string // of the node's machine; empty: that is not known
	disk string // the attachment of the backing volume's disk to it; empty: that is not known
	mu   sync.Mutex
	now  *device
	fail error
	// there is the identity of the device that the volume has here, served or not;
	// empty: none. What became of those before is counted.
	there                string
	how                  control.Attach
	made, taken, revoked int
	// dies is for an engine that dies before it has kept its device's identity.
	dies error
	// busy: somebody uses the device that is there, whichever engine serves it.
	busy bool
	// deaf: the node does not say what is there.
	deaf  error
	stuck error  // a device cannot be abandoned
	asked func() // is called first when a device is to be attached; nil: nothing
}

type device struct {
	engine.Device
	node *devices
	how  control.Attach
	busy bool
	torn error // of a Withdraw: what became of the device is not known
	lost chan struct{}
}

func (d *devices) Attach(_ context.Context, how control.Attach, dev engine.Device, last *string, keep func(string) error) (enginepod.Device, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asked != nil {
		d.asked()
	}
	if d.fail != nil {
		return nil, d.fail
	}
	switch {
	case d.there != "" && last != nil && *last != d.there:
		d.revoked++
		d.there = ""
	case d.there != "":
		d.taken++
	}
	if d.there == "" {
		d.made++
		d.there, d.how = fmt.Sprintf("device %s-%d", d.name, d.made), how
	}
	if d.dies != nil {
		return nil, d.dies
	}
	if err := keep(d.there); err != nil {
		return nil, err
	}
	d.now = &device{Device: dev, node: d, how: how, lost: make(chan struct{})}
	return d.now, nil
}

// Waiting implements enginepod.Devices.
func (d *devices) Waiting(_ context.Context, last *string) (*control.Attach, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.deaf != nil || d.there == "" || last != nil && *last != d.there {
		return nil, d.deaf
	}
	how := d.how
	return &how, nil
}

// attached is the device, or nil.
func (d *devices) attached() *device {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

func (d *device) Path() string                       { return "/dev/test0" }
func (d *device) Resize(context.Context) error       { return nil }
func (d *device) Transport() (fuse.Transport, error) { return fuse.TransportDevice, nil }
func (d *device) Lost() <-chan struct{}              { return d.lost }

func (d *device) Detach(context.Context) error {
	d.node.mu.Lock()
	defer d.node.mu.Unlock()
	if d.busy || d.node.busy {
		return control.ErrDeviceInUse
	}
	d.node.now, d.node.there = nil, ""
	return nil
}

func (d *device) Unused(context.Context) error {
	d.node.mu.Lock()
	defer d.node.mu.Unlock()
	if d.busy {
		return control.ErrDeviceInUse
	}
	return nil
}

func (d *device) Withdraw(ctx context.Context) error {
	if d.torn != nil {
		return d.torn
	}
	return d.Detach(ctx)
}

func (d *device) Abandon(context.Context) error {
	d.node.mu.Lock()
	defer d.node.mu.Unlock()
	if d.node.stuck != nil {
		return d.node.stuck
	}
	d.node.now, d.node.there = nil, ""
	d.node.revoked++
	return nil
}

func (d *device) Release() error {
	d.node.mu.Lock()
	defer d.node.mu.Unlock()
	d.node.now = nil
	return nil
}

// rig is one engine process and the node that it runs on.
type rig struct {
	t  *testing.T
	id journal.VolumeID
	fs *vfs.Mem
	// files is what the process sees of fs; nil: fs itself. faults is a part of it.
	files  vfs.FS
	faults *vfs.Fault
	// journal is where the journal's own backing volume is; empty: nowhere.
	journal string
	// clock is the machine's; nil: the real one.
	clock  clock.Clock
	net    *network
	node   *devices
	shown  enginepod.Exporter // nil: nobody is shown anything
	pod    *enginepod.Pod
	client *control.Client
	stop   func()
	end    func() error // stop where closing may fail
}

func newRig(t *testing.T, n *network, volume byte) *rig {
	r := &rig{t: t, id: journal.VolumeID{volume}, fs: vfs.NewMem(), net: n, node: &devices{}}
	if err := r.fs.MkdirAll("/backing"); err != nil {
		t.Fatal(err)
	}
	r.start()
	t.Cleanup(func() {
		if r.stop != nil {
			r.stop()
		}
	})
	return r
}

// start starts the process: it opens the backing volume and serves.
func (r *rig) start() {
	r.t.Helper()
	var files vfs.FS = r.fs
	if r.files != nil {
		files = r.files
	}
	var err error
	r.pod, err = enginepod.Open(enginepod.Config{Volume: r.id, Dir: "/backing", JournalDir: r.journal, Devices: r.node, Boot: r.node.boot, Disk: r.node.disk, DialEngine: r.net.dial,
		SegmentBytes: journal.MinSegmentBytes, FS: files, Clock: r.clock, Exports: r.shown})
	if err != nil {
		r.t.Fatal(err)
	}
	l := bufconn.Listen(1 << 20)
	r.net.mu.Lock()
	r.net.listeners[r.id.String()] = l
	r.net.mu.Unlock()
	srv := grpc.NewServer()
	control.NewServer(r.pod, clock.Wall{}).Register(srv)
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) })
	conn, err := r.net.dial(r.id.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.client = control.NewClient(r.id, conn)
	pod := r.pod
	r.stop = func() {
		if err := r.end(); err != nil {
			r.t.Error(err)
		}
	}
	r.end = func() error {
		r.stop, r.end = nil, nil
		srv.Stop()
		serving.Wait()
		return errors.Join(conn.Close(), pod.Close())
	}
}

// primary is orders for a writable primary.
func (r *rig) primary(term, revision uint64) control.Orders {
	return control.Orders{Volume: r.id, Term: term, Revision: revision, Group: "shop", Role: control.Primary, Window: time.Hour,
		Writable: true, SizeBytes: volumeBytes}
}

func (r *rig) order(o control.Orders) control.State {
	r.t.Helper()
	s, err := r.client.Order(context.Background(), o)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rig) engine() *engine.Engine {
	r.t.Helper()
	e, err := r.pod.Engine()
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}
