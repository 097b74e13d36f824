package fleet_test

import (
	"context"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/lockstep-csi/lockstep/driver/enginepod"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

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

func (c *cluster) node(id journal.VolumeID) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.engines[id]; p != nil {
		return p.node
	}
	return ""
}

// unseen is an engine's NBD server, to which nobody connects.
type unseen struct{}
