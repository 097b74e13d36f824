package journal

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// TestDamagedCatalogFile flips bytes of a real database file. Its pages have
// no checksums, and the library would panic at many of them or end the process;
// a store must fail alone, with an error that names the file, or be the same store.
func TestDamagedCatalogFile(t *testing.T) {
	cfg := testConfig(t)
	s := createAndOpen(t, cfg)
	d := newDriver(t, 1)
	for range 100 {
		d.change(s)
	}
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := s.Pin("kept", s.Tip()); err != nil {
		t.Fatal(err)
	}
	tip := s.Tip()
	mustClose(t, s)
	whole, err := os.ReadFile(filepath.Join(cfg.Dir, catalogFile))
	if err != nil {
		t.Fatal(err)
	}
	used := len(bytes.TrimRight(whole, "\x00"))
	refused := 0
	for off := 0; off < used; off++ {
		if whole[off] == 0 && off%1021 != 0 || whole[off] != 0 && off%13 != 0 {
			continue // a sample: most of a page is unused
		}
		flipped := bytes.Clone(whole)
		flipped[off] ^= 0xff
		cfg := cfg
		cfg.Dir = copyStore(t, cfg.Dir, filepath.Join(t.TempDir(), strconv.Itoa(off)), flipped)
		s, err := Open(cfg)
		if err == nil {
			if s.Tip() != tip {
				t.Fatalf("flip at %d: the store opens at %s, want %s", off, s.Tip(), tip)
			}
			if err := errors.Join(s.Pin("again", tip), s.Close()); err != nil {
				t.Fatalf("flip at %d: what opened is not usable: %v", off, err)
			}
			continue
		}
		refused++
		var c *CorruptError
		if !errors.As(err, &c) || c.File != catalogFile {
			t.Fatalf("flip at %d: %v", off, err)
		}
		if err := os.RemoveAll(cfg.Dir); err != nil {
			t.Fatal(err)
		}
	}
	if refused == 0 {
		t.Fatal("no flip was noticed")
	}
}

// copyStore copies a store with another catalog.
func copyStore(t *testing.T, from, to string, catalog []byte) string {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, catalogFile), catalog, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestRenamedBucket: a database that is well formed, with a bucket under another
// name, has lost what was in it, and must not be taken for one without pins.
func TestRenamedBucket(t *testing.T) {
	cfg := testConfig(t)
	s := createAndOpen(t, cfg)
	if err := s.Pin("kept", s.Tip()); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	whole, err := os.ReadFile(filepath.Join(cfg.Dir, catalogFile))
	if err != nil {
		t.Fatal(err)
	}
	renamed := bytes.ReplaceAll(whole, []byte(bucketPins), []byte("pint")) // still in order
	cfg.Dir = copyStore(t, cfg.Dir, filepath.Join(t.TempDir(), "renamed"), renamed)
	_, err = Open(cfg)
	var c *CorruptError
	if !errors.As(err, &c) || c.File != catalogFile || c.What != "bucket" {
		t.Errorf("got %v, want the bucket of another name", err)
	}
}
