package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// soundHost has everything.
func soundHost() host {
	return host{
		uid:      func() int { return 0 },
		mounts:   func() bool { return true },
		release:  func() (string, error) { return "6.18.5-cloud", nil },
		openable: func(string) error { return nil },
		tool:     func(name string) (string, error) { return "/usr/sbin/" + name, nil },
		file:     func(string) (string, error) { return "Y", nil },
	}
}

func TestCheckHost(t *testing.T) {
	without := func(change func(*host)) host {
		h := soundHost()
		change(&h)
		return h
	}
	cases := map[string]struct {
		host host
		exit int
		says string
	}{
		"sound":         {soundHost(), exitOK, ""},
		"not root":      {without(func(h *host) { h.uid = func() int { return 1000 } }), exitFailed, "lacks: root"},
		"no capability": {without(func(h *host) { h.mounts = func() bool { return false } }), exitFailed, "lacks: root"},
		"no device":     {without(func(h *host) { h.openable = func(string) error { return fs.ErrNotExist } }), exitFailed, "lacks: /dev/fuse, /dev/loop-control"},
		"no tools":      {without(func(h *host) { h.tool = func(string) (string, error) { return "", fs.ErrNotExist } }), exitFailed, "lacks: mount, mkfs.ext4"},
		// Old kernels serve, with less.
		"old kernel": {without(func(h *host) { h.release = func() (string, error) { return "6.8.0", nil } }), exitOK, ""},
		"no io_uring": {without(func(h *host) {
			h.file = func(string) (string, error) { return "", fs.ErrNotExist }
		}), exitOK, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newShell("")
			s.host = c.host
			got := s.run(t, "check")
			if got.exit != c.exit || !strings.Contains(got.stderr, c.says) {
				t.Errorf("exit %d, want %d: %q, want %q in it", got.exit, c.exit, got.stderr, c.says)
			}
			golden(t, "check_"+strings.ReplaceAll(name, " ", "_"), got.stdout)
		})
	}
}

func TestCheckThisHost(t *testing.T) {
	for _, f := range thisHost().check().Checks {
		if f.Name == "" || f.Found == "" || f.Remedy == "" {
			t.Errorf("an incomplete finding: %+v", f)
		}
	}
}

// TestOpenDevice guards against a file that stands where a device should, as
// `: >/dev/fuse` in a container leaves it.
func TestOpenDevice(t *testing.T) {
	if err := openDevice("/dev/null"); err != nil {
		t.Errorf("a device: %v", err)
	}
	file := filepath.Join(t.TempDir(), "fuse")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openDevice(file); err == nil {
		t.Error("a plain file was taken for a device")
	}
}
