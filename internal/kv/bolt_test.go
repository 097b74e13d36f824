package kv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func mustOpenBolt(t *testing.T, path string) *bolt {
	t.Helper()
	db, err := OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db.(*bolt)
}

func TestBoltKeepsItsContent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.db")
	db := mustOpenBolt(t, path)
	if err := db.Update(func(tx Tx) error { return tx.Put("b", []byte("k"), []byte("v")) }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = mustOpenBolt(t, path)
	_ = db.View(func(tx Tx) error {
		if got := tx.Get("b", []byte("k")); string(got) != "v" {
			t.Errorf("got %q after opening again, want v", got)
		}
		return nil
	})
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != boltMode {
		t.Errorf("mode is %v, want %v", info.Mode(), fs.FileMode(boltMode))
	}
}

func TestBoltIsLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.db")
	db := mustOpenBolt(t, path)
	if _, err := OpenBolt(path); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: got %v, want ErrLocked", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpenBolt(t, path)
}

// What a crash left of an unfinished database does not disturb the next try,
// and is gone after it.
func TestBoltReplacesAnUnfinishedDatabase(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "catalog.db")
	if err := os.WriteFile(path+unfinishedSuffix, make([]byte, 5000), boltMode); err != nil {
		t.Fatal(err)
	}
	mustOpenBolt(t, path)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "catalog.db" {
		t.Fatalf("directory has %v, %v; want the database alone", entries, err)
	}
}

func TestBoltRefusesAForeignFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.db")
	foreign := []byte("not a database, and longer than a header " + string(make([]byte, 20000)))
	if err := os.WriteFile(path, foreign, boltMode); err != nil {
		t.Fatal(err)
	}
	if db, err := OpenBolt(path); err == nil {
		_ = db.Close()
		t.Fatal("opened a file that is no database")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != string(foreign) {
		t.Fatalf("the foreign file was changed (%v)", err)
	}
}

func TestBoltInAMissingDirectory(t *testing.T) {
	_, err := OpenBolt(filepath.Join(t.TempDir(), "none", "catalog.db"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v, want a match for ENOENT", err)
	}
}

func TestPoisonedBoltRefusesUpdatesOnly(t *testing.T) {
	db := mustOpenBolt(t, filepath.Join(t.TempDir(), "catalog.db"))
	if err := Settled(db); err != nil {
		t.Errorf("settled: %v", err)
	}
	db.poisoned.Store(true)
	nothing := func(Tx) error { return nil }
	if err := db.Update(nothing); !errors.Is(err, ErrPoisoned) {
		t.Errorf("update: got %v, want ErrPoisoned", err)
	}
	if err := Settled(db); !errors.Is(err, ErrPoisoned) {
		t.Errorf("settled: got %v, want ErrPoisoned", err)
	}
	if err := db.View(nothing); err != nil {
		t.Errorf("view: %v", err)
	}
}

func TestWhichFailedCommitsPoison(t *testing.T) {
	cases := map[string]struct {
		err     error
		poisons bool
	}{
		"data page does not fit":      {&fs.PathError{Op: "write", Err: syscall.ENOSPC}, false},
		"data page exceeds the quota": {&fs.PathError{Op: "write", Err: syscall.EDQUOT}, false},
		"write fails":                 {&fs.PathError{Op: "write", Err: syscall.EIO}, true},
		"sync fails":                  {syscall.EIO, true},
		"sync finds no space":         {syscall.ENOSPC, true},
		"growing finds no space":      {resized(syscall.ENOSPC), false},
		"growing exceeds the quota":   {resized(syscall.EDQUOT), false},
		"growing fails":               {resized(syscall.EIO), true},
		"growing cannot be synced":    {fmt.Errorf("file sync error: %s", syscall.ENOSPC), true},
	}
	for name, c := range cases {
		if got := !neverReachedDisk(withErrno(c.err)); got != c.poisons {
			t.Errorf("%s: poisons = %v, want %v", name, got, c.poisons)
		}
	}
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		if err := withErrno(resized(errno)); !errors.Is(err, errno) {
			t.Errorf("%v does not match %v", err, errno)
		}
	}
}

// resized is what Bolt makes of a truncate(2) that fails when it grows its file.
func resized(errno syscall.Errno) error {
	return fmt.Errorf("file resize error: %s", &fs.PathError{Op: "truncate", Path: "/v/catalog.db", Err: errno})
}
