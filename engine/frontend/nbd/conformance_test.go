package nbd

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/frontend/conformance"
)

// target drives an export over some connections, in turn.
type target struct {
	t       *testing.T
	server  *running
	options clientOptions
	clients []*client
	next    atomic.Uint64
}

func (g *target) connect() error {
	for i := range g.clients {
		c, err := connect(g.server.path, "vol", g.options)
		if err != nil {
			return fmt.Errorf("connect client %d: %w", i, err)
		}
		g.clients[i] = c
	}
	return nil
}

func (g *target) client() *client {
	return g.clients[g.next.Add(1)%uint64(len(g.clients))]
}

func (g *target) Capabilities() conformance.Capabilities {
	return conformance.Capabilities{
		FUA: true, WritesDuringFlush: true, ExactErrors: true,
		AtomicBytes: 1 << 20, DiscardBytes: 512, Parallel: 64,
	}
}

func (g *target) ReadAt(p []byte, off int64) error { return g.client().read(p, off) }

func (g *target) WriteAt(p []byte, off int64, fua bool) error {
	var flags uint16
	if fua {
		flags = cmdFlagFUA
	}
	return g.client().write(p, off, flags)
}

func (g *target) Flush() error { return g.client().request(cmdFlush, 0, 0, 0) }

func (g *target) Discard(off, length int64) error {
	return g.client().request(cmdTrim, 0, off, length)
}

func (g *target) WriteZeroes(off, length int64) error {
	return g.client().request(cmdWriteZeroes, 0, off, length)
}

func (g *target) Size() (int64, error) { return g.clients[0].size, nil }

// Grow reconnects: the protocol fixes the size when a connection is made.
func (g *target) Grow() error {
	for _, c := range g.clients {
		c.close()
	}
	return g.connect()
}

func (g *target) Close() error {
	for _, c := range g.clients {
		c.close()
	}
	g.server.stop(g.t)
	return nil
}

func TestConformance(t *testing.T) {
	cases := []struct {
		name        string
		options     clientOptions
		connections int
	}{
		{"simple replies", clientOptions{}, 1},
		{"structured replies", clientOptions{structured: true, allocation: true}, 1},
		{"EXPORT_NAME", clientOptions{exportName: true}, 1},
		{"four connections", clientOptions{structured: true}, 4},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			conformance.Run(t, func(t *testing.T, dev engine.Device) conformance.Target {
				g := &target{t: t, server: serve(t, Config{}, dev), options: c.options, clients: make([]*client, c.connections)}
				if err := g.connect(); err != nil {
					t.Fatal(err)
				}
				return g
			})
		})
	}
}
