package sanity

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/driver/csiserver"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/node"
)

const (
	nodeID = "sanity-node"
	// maxVolumes is small because a test publishes as many and one more.
	maxVolumes = 6
)

// startLoop serves CSI over plain loop devices: the services apart from the
// journal and its engines.
func startLoop(t *testing.T, log io.Writer) (address string) {
	t.Helper()
	dir := t.TempDir()
	under := newLoopBackend(t.TempDir())
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	db, err := kv.OpenBolt(filepath.Join(dir, "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := controller.OneNode(nodeID)
	if err != nil {
		t.Fatal(err)
	}
	control, err := controller.New(controller.Config{
		Catalog: catalog.New(db), Backend: under, Nodes: nodes, MaxVolumesPerNode: maxVolumes, Log: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	service, err := node.New(node.Config{
		NodeID: nodeID, MaxVolumesPerNode: maxVolumes, Devices: under, StateDir: dir, Log: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := control.Reconcile(context.Background()); err != nil {
		t.Fatal(err)
	}
	cfg := csiserver.Config{
		Endpoint: "unix://" + filepath.Join(dir, "csi.sock"), Version: "test", Log: logger,
		Controller: control, GroupController: control, Node: service, Ready: control.Ready,
	}
	listener, err := csiserver.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- csiserver.Serve(ctx, cfg, listener) }()
	t.Cleanup(func() {
		cancel()
		err := <-served
		control.Close()
		if err := errors.Join(err, under.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
	return cfg.Endpoint
}

// logBuffer collects a log that is written concurrently.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
