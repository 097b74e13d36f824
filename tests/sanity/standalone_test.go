package sanity

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// holderRole is the first argument with which this program holds devices, as
// `lockstep holder` does.
const holderRole = "sanity-holder"

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == holderRole {
		err := holder.Run(context.Background(), holder.Config{Socket: os.Args[2], Dir: os.Args[3], IdleTimeout: 2 * time.Second})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// startStandalone runs a whole standalone site: journals, engines, FUSE and
// the holder of its devices.
func startStandalone(t *testing.T, log io.Writer) (address string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lockstep") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	address = "unix://" + filepath.Join(dir, "csi.sock")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- driver.RunStandalone(ctx, driver.StandaloneConfig{
			Site: "sanity", Root: dir, CSIEndpoint: address, NodeID: nodeID, Admin: filepath.Join(dir, "admin.sock"), Version: "test", MaxVolumes: maxVolumes,
			HolderArgs: func(socket, devices string) []string { return []string{holderRole, socket, devices} },
			Log:        slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	waitForSocket(t, strings.TrimPrefix(address, "unix://"), ended)
	return address
}

// waitForSocket waits until a site answers, or has ended.
func waitForSocket(t *testing.T, path string, ended <-chan error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		if conn, err := net.Dial("unix", path); err == nil {
			_ = conn.Close()
			return
		}
		select {
		case err := <-ended:
			t.Fatalf("the site ended: %v", err)
		case <-tick.C:
		}
	}
	t.Fatal("the site does not answer")
}
