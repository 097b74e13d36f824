package driver

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// TestListenTakesNobodysSocket: two sites on one machine that are given one path, as by the
// default of --admin, are not to get each other's commands, and what is no socket stays.
func TestListenTakesNobodysSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	first, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := listenUnix(path); err == nil {
		t.Errorf("another process listens where one does: %v", second.Close())
	}
	if conn, err := net.Dial("unix", path); err != nil {
		t.Errorf("the first one is not reached any more: %v", err)
	} else if err := conn.Close(); err != nil {
		t.Error(err)
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false) // as after a kill
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := listenUnix(path)
	if err != nil {
		t.Fatalf("a socket that was left behind: %v", err)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("notes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := listenUnix(path); err == nil {
		t.Errorf("a file was replaced by a socket: %v", l.Close())
	}
	if kept, err := os.ReadFile(path); err != nil || string(kept) != "notes" {
		t.Errorf("the file: %q, %v", kept, err)
	}
}
