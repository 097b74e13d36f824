package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// passable makes a temporary directory that everyone gets through, as those of
// the tests are not.
func passable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ls-demo-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestCheckDirectory(t *testing.T) {
	dir := passable(t)
	shut := filepath.Join(dir, "shut")
	if err := os.MkdirAll(filepath.Join(shut, "open"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(shut, "open"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct{ dir, says string }{
		"missing":        {filepath.Join(dir, "missing"), "no such file or directory"},
		"file":           {file, "not a directory"},
		"below shut one": {filepath.Join(shut, "open"), shut + " lets nobody but its owner through"},
		"procfs":         {"/proc", "MiB free"},
		"sysfs":          {"/sys/kernel", "MiB free"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := checkDirectory(c.dir)
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "set "+dirVariable) {
				t.Errorf("got %v, want %q in it", err, c.says)
			}
		})
	}
	if err := checkWay(dir); err != nil {
		t.Errorf("a directory that is open to all: %v", err)
	}
	if err := checkFiles(dir); err != nil {
		t.Errorf("an ordinary file system: %v", err)
	}
	if left, err := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("%v are left behind, %v", left, err)
	}
}
