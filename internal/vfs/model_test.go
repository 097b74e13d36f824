package vfs_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// model is what a file system without crashes is: names and bytes.
type model map[string][]byte

func (m model) resize(name string, size int) {
	content := m[name]
	for len(content) < size {
		content = append(content, 0)
	}
	m[name] = content[:size:size]
}

func (m model) write(name string, off int, p []byte) {
	if end := off + len(p); len(p) > 0 && end > len(m[name]) {
		m.resize(name, end)
	}
	m[name] = slices.Clone(m[name])
	copy(m[name][min(off, len(m[name])):], p)
}

// step draws one operation, does it to both, and compares the outcome.
func (m model) step(t *rapid.T, fs vfs.FS, names []string) {
	name := rapid.SampledFrom(names).Draw(t, "name")
	off := rapid.IntRange(0, 3000).Draw(t, "off")
	length := rapid.IntRange(0, 2000).Draw(t, "length")
	content, exists := m[name]
	onFile := func(do func(f vfs.File) error) error {
		f, err := fs.Open(path.Join("/d", name))
		if err != nil {
			return err
		}
		return errors.Join(do(f), f.Close())
	}
	var err error
	switch op := rapid.SampledFrom([]string{
		"create", "write", "write", "vec", "stream", "truncate", "allocate", "punch", "sync", "syncdir", "remove", "rename",
	}).Draw(t, "op"); op {
	case "create":
		_, err = fs.Create(path.Join("/d", name))
		if exists != errors.Is(err, vfs.ErrExist) {
			t.Fatalf("create %s: %v, exists %v", name, err, exists)
		}
		if !exists {
			m[name] = []byte{}
		}
		return
	case "rename":
		to := rapid.SampledFrom(names).Draw(t, "to")
		err = fs.Rename(path.Join("/d", name), path.Join("/d", to))
		if exists && to != name {
			m[to] = content
			delete(m, name)
		}
	case "remove":
		err = fs.Remove(path.Join("/d", name))
		delete(m, name)
	case "syncdir":
		if err = fs.SyncDir("/d"); err != nil {
			t.Fatal(err)
		}
		return
	default:
		err = onFile(func(f vfs.File) error { return m.onFile(op, f, name, off, length) })
	}
	if exists != (err == nil) || !exists && !errors.Is(err, vfs.ErrNotExist) {
		t.Fatalf("operation on %s: %v, exists %v", name, err, exists)
	}
}

func (m model) onFile(op string, f vfs.File, name string, off, length int) (err error) {
	p := make([]byte, length)
	for i := range p {
		p[i] = byte(1 + (off+i)%255)
	}
	switch op {
	case "write":
		_, err = f.WriteAt(p, int64(off))
		m.write(name, off, p)
	case "vec":
		_, err = f.WriteVecAt([][]byte{p[:length/3], p[length/3:]}, int64(off))
		m.write(name, off, p)
	case "stream":
		_, err = f.StreamVecAt([][]byte{p[:length/3], p[length/3:]}, int64(off))
		m.write(name, off, p)
	case "truncate":
		err = f.Truncate(int64(off))
		m.resize(name, off)
	case "allocate":
		err = f.Allocate(int64(off), int64(length))
		if length > 0 {
			m.resize(name, max(off+length, len(m[name])))
		}
	case "punch":
		err = f.PunchHole(int64(off), int64(length))
		if end := min(off+length, len(m[name])); off < end {
			m.write(name, off, make([]byte, end-off))
		}
	case "sync":
		err = f.Sync()
	}
	return err
}

// equal compares the whole tree.
func (m model) equal(fs vfs.FS) error {
	names, err := fs.ReadDir("/d")
	if err != nil {
		return err
	}
	if want := slices.Sorted(maps.Keys(m)); !slices.Equal(names, want) {
		return fmt.Errorf("names are %q, want %q", names, want)
	}
	for _, name := range names {
		got, err := contentOf(fs, path.Join("/d", name))
		if err != nil {
			return err
		}
		if got != string(m[name]) {
			return fmt.Errorf("%s differs: %d bytes, want %d", name, len(got), len(m[name]))
		}
	}
	return nil
}

func contentOf(fs vfs.FS, name string) (content string, err error) {
	f, err := fs.OpenReadOnly(name)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return "", err
	}
	p := make([]byte, size)
	if n, err := f.ReadAt(p, 0); err != nil && err != io.EOF || n != len(p) {
		return "", fmt.Errorf("read %d of %d bytes: %w", n, len(p), err)
	}
	return string(p), nil
}

// Without a crash Mem is a plain file system; a kill loses nothing of it; and
// neither does a power loss that happens to spare everything.
func TestMemEqualsTheModel(t *testing.T) {
	names := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		fs, want := vfs.NewMem(), model{}
		if err := fs.MkdirAll("/d"); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			want.step(t, fs, names)
			if err := want.equal(fs); err != nil {
				t.Fatal(err)
			}
		}
		killed := fs.KillClone()
		if err := want.equal(killed); err != nil {
			t.Fatalf("after a kill: %v", err)
		}
		if err := want.equal(killed.CrashWith(nil, vfs.CrashOptions{KeepAll: true})); err != nil {
			t.Fatalf("after a kill and a power loss that kept all: %v", err)
		}
		if err := want.equal(fs); err != nil {
			t.Fatalf("the crash of a clone reached the original: %v", err)
		}
	})
}

// After everything was synced, whatever happens later to other files, nothing
// of it is lost; and space is accounted for as if the tree had just been made.
func TestSyncedStateSurvivesEveryCrash(t *testing.T) {
	names := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		fs, want := vfs.NewMem(), model{}
		if err := errors.Join(fs.MkdirAll("/d"), fs.SyncDir("/")); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			want.step(t, fs, names)
		}
		for name := range want {
			f, err := fs.Open(path.Join("/d", name))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(f.Sync(), f.Close()); err != nil {
				t.Fatal(err)
			}
		}
		if err := fs.SyncDir("/d"); err != nil {
			t.Fatal(err)
		}
		// Unsynced work elsewhere must not touch what is durable.
		other := model{}
		if err := fs.MkdirAll("/e"); err != nil {
			t.Fatal(err)
		}
		if f, err := fs.Create("/e/x"); err != nil {
			t.Fatal(err)
		} else if err := other.onFile("write", f, "x", 0, 1000); err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		if err := want.equal(fs.Crash(rng)); err != nil {
			t.Fatal(err)
		}
	})
}
