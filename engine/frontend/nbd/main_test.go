package nbd

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lockstep-csi/lockstep/engine"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// testPatience bounds how long a failing test waits; no passing one does.
const testPatience = 30 * time.Second

// running is a server on a socket of its own.
type running struct {
	*Server
	path   string
	cancel context.CancelFunc
	served chan error
}

// serve starts a server with dev as export "vol"; dev may be nil.
func serve(t *testing.T, config Config, dev engine.Device) *running {
	t.Helper()
	s, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	if dev != nil {
		if err := s.Add("vol", dev, "a test volume"); err != nil {
			t.Fatal(err)
		}
	}
	r := &running{Server: s, path: filepath.Join(t.TempDir(), "nbd.sock"), served: make(chan error, 1)}
	l, err := net.Listen("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.served <- s.Serve(ctx, l) }()
	t.Cleanup(func() { r.stop(t) })
	return r
}

// stop ends Serve and waits for it. It may be called again.
func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	select {
	case err := <-r.served:
		if err != nil {
			t.Errorf("serve: %v", err)
		}
		r.served <- nil
	case <-time.After(testPatience):
		t.Fatal("Serve did not return")
	}
}

// soon fails the test when ch yields nothing in time.
func soon[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(testPatience):
		t.Fatalf("%s: nothing happened within %v", what, testPatience)
		panic("unreachable")
	}
}
