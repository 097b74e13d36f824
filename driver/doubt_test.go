package driver

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/engine/frontend/nbd"
	"github.com/lockstep-csi/lockstep/node"
)

// TestASiteEndsWithItsDatabase: nothing that it is told could be noted any more, so that it
// does not go on serving, and says why.
func TestASiteEndsWithItsDatabase(t *testing.T) {
	s, dir := newCSISite(t), t.TempDir()
	s.doubts = make(chan error, 1)
	s.cfg = StandaloneConfig{Site: "a", Root: dir, CSIEndpoint: "unix://" + filepath.Join(dir, "csi.sock"), NodeID: "n", Version: "test", Admin: filepath.Join(dir, "admin.sock"), Log: slog.New(slog.DiscardHandler)}
	var err error
	if s.nbd, err = nbd.New(nbd.Config{}); err == nil {
		s.node, err = node.New(node.Config{NodeID: "n", Devices: nodeDevices{&backend{site: s.site}}, StateDir: dir, Log: s.cfg.Log})
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.serve(t.Context()) }()
	failed := errors.New("sync: input/output error")
	s.doubt(failed)
	s.doubt(errors.New("the other one, which nobody waits for any more"))
	select {
	case err := <-ended:
		if !errors.Is(err, failed) {
			t.Errorf("ended with %v, want %v", err, failed)
		}
	case <-time.After(time.Minute):
		t.Fatal("it goes on serving")
	}
}
