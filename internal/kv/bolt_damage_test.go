package kv

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// filledBolt makes a database with a bucket of several pages, and one that is
// small enough to be stored in the top level, and returns its file.
func filledBolt(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "catalog.db")
	db := mustOpenBolt(t, path)
	for round := range 3 { // the later ones leave free pages
		err := db.Update(func(tx Tx) error {
			for i := range 100 {
				if err := tx.Put("many", fmt.Appendf(nil, "%03d", i), bytes.Repeat([]byte{byte(round)}, 100)); err != nil {
					return err
				}
			}
			return tx.Put("few", []byte("k"), []byte("v"))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return whole
}

// useAll reads all of a database and changes each of its buckets.
func useAll(db DB) error {
	for _, bucket := range []string{"few", "many"} {
		var keys [][]byte
		err := db.View(func(tx Tx) error {
			tx.Range(bucket, nil, func(key, value []byte) bool {
				keys = append(keys, bytes.Clone(key))
				return bytes.Equal(tx.Get(bucket, key), value)
			})
			return nil
		})
		if err != nil {
			return err
		}
		err = db.Update(func(tx Tx) error {
			for _, key := range keys {
				if err := tx.Delete(bucket, key); err != nil {
					return err
				}
			}
			return tx.Put(bucket, []byte("new"), make([]byte, 5000))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// TestDamagedBoltIsRefused: a file that is not whole is a named error. It is
// not touched, and not kept locked.
func TestDamagedBoltIsRefused(t *testing.T) {
	whole := filledBolt(t)
	pageSize := os.Getpagesize()
	cases := map[string]func([]byte) []byte{
		"empty":      func([]byte) []byte { return nil },
		"a part":     func(b []byte) []byte { return b[:5*pageSize/2] },
		"a meta":     func(b []byte) []byte { b[20]++; return b },
		"both metas": func(b []byte) []byte { return append(make([]byte, 2*pageSize), b[2*pageSize:]...) },
		"the rest":   func(b []byte) []byte { return append(b[:2*pageSize:2*pageSize], make([]byte, len(b)-2*pageSize)...) },
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "catalog.db")
			damaged := damage(bytes.Clone(whole))
			if err := os.WriteFile(path, damaged, boltMode); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				db, err := OpenBolt(path)
				var c *CorruptError
				if err == nil {
					_ = db.Close()
				}
				if !errors.Is(err, ErrCorrupt) || !errors.As(err, &c) {
					t.Fatalf("got %v, want ErrCorrupt", err)
				}
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, damaged) {
				t.Errorf("the file was changed (%v)", err)
			}
			if err := os.WriteFile(path, whole, boltMode); err != nil {
				t.Fatal(err)
			}
			mustOpenBolt(t, path)
		})
	}
}

// TestFlippedBolt: what opens can be used. All flips are in package pagecheck;
// this is a sample of them with what Open does around the check.
func TestFlippedBolt(t *testing.T) {
	whole := filledBolt(t)
	path := filepath.Join(t.TempDir(), "catalog.db")
	refused, used := 0, 0
	for offset := 0; offset < len(bytes.TrimRight(whole, "\x00")); offset += 397 {
		flipped := bytes.Clone(whole)
		flipped[offset] ^= 0xff
		if err := os.WriteFile(path, flipped, boltMode); err != nil {
			t.Fatal(err)
		}
		db, err := OpenBolt(path)
		if err != nil {
			refused++
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("flip at %d: %v", offset, err)
			}
			continue
		}
		used++
		if err := errors.Join(useAll(db), db.Close()); err != nil {
			t.Fatalf("flip at %d: %v", offset, err)
		}
	}
	if refused == 0 || used == 0 {
		t.Fatalf("%d refused, %d used", refused, used)
	}
}

// TestBoltIsLockedBeforeItIsRead: another's file is in use, not damaged, even
// if it has not finished what it writes.
func TestBoltIsLockedBeforeItIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.db")
	half, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, boltMode)
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	if err := lockFile(half); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenBolt(path); !errors.Is(err, ErrLocked) {
		t.Fatalf("got %v, want ErrLocked", err)
	}
}
