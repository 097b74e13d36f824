package sanity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
		endHolder(t, dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	waitForSocket(t, strings.TrimPrefix(address, "unix://"), ended)
	return address
}

// endHolder ends the holder of a site, which would wait for another site for a while,
// and returns when its process has ended, which is when nobody has its lock.
func endHolder(t *testing.T, dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client, err := holder.Dial(ctx, filepath.Join(dir, "holder.sock"))
	if err == nil {
		err = errors.Join(client.Shutdown(ctx), client.Close())
	}
	if err != nil {
		t.Errorf("end the holder: %v", err)
	}
	lock, err := os.Open(filepath.Join(dir, "devices", ".lock"))
	if err != nil {
		t.Error(err)
		return
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Errorf("wait for the holder's end: %v", err)
	}
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
