package vfs_test

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// place is a file system under test and a directory in it.
type place struct {
	t   *testing.T
	fs  vfs.FS
	dir string
}

func (p place) path(name string) string { return filepath.Join(p.dir, name) }

func (p place) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p place) fails(want, err error) {
	p.t.Helper()
	if !errors.Is(err, want) {
		p.t.Fatalf("got %v, want %v", err, want)
	}
}

// create makes a file and closes it with the test.
func (p place) create(name string) vfs.File {
	p.t.Helper()
	f, err := p.fs.Create(p.path(name))
	p.must(err)
	p.t.Cleanup(func() { _ = f.Close() })
	return f
}

func (p place) write(f vfs.File, off int64, content string) {
	p.t.Helper()
	n, err := f.WriteAt([]byte(content), off)
	p.must(err)
	if n != len(content) {
		p.t.Fatalf("wrote %d of %d bytes without an error", n, len(content))
	}
}

// reads checks the whole content of a file and its size.
func (p place) reads(f vfs.File, want string) {
	p.t.Helper()
	got := make([]byte, len(want)+100)
	n, err := f.ReadAt(got, 0)
	if err != io.EOF {
		p.t.Fatalf("read beyond the end: got %v, want io.EOF", err)
	}
	if string(got[:n]) != want {
		p.t.Fatalf("file has %q, want %q", abbreviate(got[:n]), abbreviate([]byte(want)))
	}
	size, err := f.Size()
	p.must(err)
	if size != int64(len(want)) {
		p.t.Fatalf("size is %d, want %d", size, len(want))
	}
}

func abbreviate(b []byte) string {
	return strings.ReplaceAll(string(b), strings.Repeat("\x00", 64), "…")
}

func (p place) lists(dir string, want ...string) {
	p.t.Helper()
	got, err := p.fs.ReadDir(p.path(dir))
	p.must(err)
	if !slices.Equal(got, want) {
		p.t.Fatalf("%q has %q, want %q", dir, got, want)
	}
}

func zeroes(n int) string { return strings.Repeat("\x00", n) }

// behaviours are what OS, Mem and Fault must have in common, so that what a
// simulation shows holds for the machine.
var behaviours = map[string]func(p place){
	"create and read back": func(p place) {
		f := p.create("a")
		p.reads(f, "")
		p.write(f, 0, "hello")
		p.write(f, 3, "p!")
		p.reads(f, "help!")
		size, err := p.fs.Stat(p.path("a"))
		p.must(err)
		if size != 5 {
			p.t.Fatalf("stat: size %d, want 5", size)
		}
	},
	"create finds the name taken": func(p place) {
		p.create("a")
		_, err := p.fs.Create(p.path("a"))
		p.fails(vfs.ErrExist, err)
	},
	"names that are missing": func(p place) {
		_, err := p.fs.Open(p.path("a"))
		p.fails(vfs.ErrNotExist, err)
		_, err = p.fs.OpenReadOnly(p.path("a"))
		p.fails(vfs.ErrNotExist, err)
		_, err = p.fs.Stat(p.path("a"))
		p.fails(vfs.ErrNotExist, err)
		_, err = p.fs.ReadDir(p.path("a"))
		p.fails(vfs.ErrNotExist, err)
		_, err = p.fs.Create(p.path("d/a"))
		p.fails(vfs.ErrNotExist, err)
		_, err = p.fs.Lock(p.path("d/a"))
		p.fails(vfs.ErrNotExist, err)
		_, err = p.fs.OpenDB(p.path("d/a"))
		p.fails(vfs.ErrNotExist, err)
		_, _, err = p.fs.Space(p.path("a"))
		p.fails(vfs.ErrNotExist, err)
		p.fails(vfs.ErrNotExist, p.fs.Remove(p.path("a")))
		p.fails(vfs.ErrNotExist, p.fs.Rename(p.path("a"), p.path("b")))
		p.fails(vfs.ErrNotExist, p.fs.SyncDir(p.path("d")))
		p.must(p.fs.RemoveAll(p.path("a")))
		p.must(p.fs.RemoveAll(p.path("d/a")))
	},
	"directories are no files": func(p place) {
		p.must(p.fs.MkdirAll(p.path("d")))
		if _, err := p.fs.Open(p.path("d")); err == nil {
			p.t.Error("opened a directory for writing")
		}
		if _, err := p.fs.OpenReadOnly(p.path("d")); err == nil {
			p.t.Error("opened a directory for reading")
		}
		p.create("f")
		if _, err := p.fs.Create(p.path("f/a")); err == nil {
			p.t.Error("made a file below a file")
		}
		if err := p.fs.MkdirAll(p.path("f/d")); err == nil {
			p.t.Error("made a directory below a file")
		}
		if err := p.fs.SyncDir(p.path("f")); err == nil {
			p.t.Error("synced a file as a directory")
		}
	},
	"handles see each other's writes": func(p place) {
		a := p.create("a")
		b, err := p.fs.Open(p.path("a"))
		p.must(err)
		defer func() { _ = b.Close() }()
		p.write(a, 0, "x")
		p.write(b, 1, "y")
		p.reads(a, "xy")
		p.reads(b, "xy")
	},
	"a file opened for reading cannot be changed": func(p place) {
		p.write(p.create("a"), 0, "x")
		f, err := p.fs.OpenReadOnly(p.path("a"))
		p.must(err)
		_, err = f.WriteAt([]byte("y"), 0)
		p.fails(vfs.ErrReadOnly, err)
		_, err = f.WriteVecAt([][]byte{[]byte("y")}, 0)
		p.fails(vfs.ErrReadOnly, err)
		_, err = f.StreamVecAt([][]byte{[]byte("y")}, 0)
		p.fails(vfs.ErrReadOnly, err)
		p.fails(vfs.ErrReadOnly, f.Truncate(0))
		p.fails(vfs.ErrReadOnly, f.Allocate(0, 1))
		p.fails(vfs.ErrReadOnly, f.PunchHole(0, 1))
		p.must(f.Sync())
		p.reads(f, "x")
		p.must(f.Close())
	},
	"a closed file refuses": func(p place) {
		f := p.create("a")
		p.must(f.Close())
		_, err := f.ReadAt(make([]byte, 1), 0)
		p.fails(vfs.ErrClosed, err)
		_, err = f.WriteAt([]byte("x"), 0)
		p.fails(vfs.ErrClosed, err)
		_, err = f.TryReadAt(make([]byte, 1), 0)
		p.fails(vfs.ErrClosed, err)
		_, _, err = f.NextData(0)
		p.fails(vfs.ErrClosed, err)
		_, err = f.Size()
		p.fails(vfs.ErrClosed, err)
		p.fails(vfs.ErrClosed, f.Sync())
		p.fails(vfs.ErrClosed, f.Truncate(1))
		p.fails(vfs.ErrClosed, f.Allocate(0, 1))
		p.fails(vfs.ErrClosed, f.PunchHole(0, 1))
		p.fails(vfs.ErrClosed, f.Close())
		_, err = f.ReadVecAt([][]byte{make([]byte, 1)}, 0)
		p.fails(vfs.ErrClosed, err)
		_, err = f.WriteDirectAt(vfs.AlignedBytes(vfs.DirectAlignBytes), 0)
		p.fails(vfs.ErrClosed, err)
		f.DropCache()
		f.StartWriteback(0, 1)
		f.StartRead(0, 1)
	},
	"read vectors": func(p place) {
		f := p.create("a")
		p.write(f, 0, "0123456789")
		f.StartRead(0, 10)
		bufs := [][]byte{make([]byte, 1), {}, make([]byte, 3), make([]byte, 2)}
		if n, err := f.ReadVecAt(bufs, 2); n != 6 || err != nil {
			p.t.Errorf("read %d bytes: %v", n, err)
		}
		if got := string(bytes.Join(bufs, []byte("|"))); got != "2||345|67" {
			p.t.Errorf("read %q", got)
		}
		if n, err := f.ReadVecAt(bufs, 6); n != 4 || err != io.EOF {
			p.t.Errorf("past the end: %d, %v", n, err)
		}
		if got := string(bufs[0]) + string(bufs[2]); got != "6789" {
			p.t.Errorf("past the end: read %q", got)
		}
		if n, err := f.ReadVecAt(nil, 0); n != 0 || err != nil {
			p.t.Errorf("nothing: %d, %v", n, err)
		}
		many := make([][]byte, 3000) // more than one system call takes
		for i := range many {
			many[i] = make([]byte, 1)
		}
		text := strings.Repeat("abcdefg", 500)
		p.write(f, 0, text)
		if n, err := f.ReadVecAt(many, 10); n != 3000 || err != nil {
			p.t.Errorf("many: %d, %v", n, err)
		}
		if got := string(bytes.Join(many, nil)); got != text[10:3010] {
			p.t.Error("many: read something else")
		}
	},
	"write directly": func(p place) {
		const block = vfs.DirectAlignBytes
		f := p.create("a")
		p.write(f, 0, strings.Repeat("a", 4*block))
		b := vfs.AlignedBytes(2 * block)
		for i := range b {
			b[i] = 'b'
		}
		n, err := f.WriteDirectAt(b, block)
		if errors.Is(err, vfs.ErrNoDirect) {
			n, err = f.WriteAt(b, block) // what its caller does
		}
		if n != len(b) || err != nil {
			p.t.Errorf("wrote %d bytes: %v", n, err)
		}
		p.write(f, 2*block, "c")
		p.must(f.Sync())
		f.DropCache()
		p.reads(f, strings.Repeat("a", block)+strings.Repeat("b", block)+"c"+strings.Repeat("b", block-1)+strings.Repeat("a", block))
		f2, err := p.fs.OpenReadOnly(p.path("a"))
		p.must(err)
		_, err = f2.WriteDirectAt(b, 0)
		p.fails(vfs.ErrReadOnly, err)
		p.must(errors.Join(f2.Close(), f.Close()))
	},
	"a gap reads as zeroes": func(p place) {
		f := p.create("a")
		p.write(f, 10_000, "x")
		p.reads(f, zeroes(10_000)+"x")
	},
	"reads at the end of the file": func(p place) {
		f := p.create("a")
		p.write(f, 0, "abc")
		buf := make([]byte, 3)
		if n, err := f.ReadAt(buf, 0); n != 3 || err != nil {
			p.t.Errorf("exactly the file: %d, %v", n, err)
		}
		if n, err := f.ReadAt(buf, 2); n != 1 || err != io.EOF {
			p.t.Errorf("past the end: %d, %v", n, err)
		}
		if n, err := f.ReadAt(buf, 1000); n != 0 || err != io.EOF {
			p.t.Errorf("beyond the end: %d, %v", n, err)
		}
		if n, err := f.ReadAt(nil, 0); n != 0 || err != nil {
			p.t.Errorf("nothing: %d, %v", n, err)
		}
	},
	"negative offsets are refused": func(p place) {
		f := p.create("a")
		if _, err := f.ReadAt(make([]byte, 1), -1); err == nil || err == io.EOF {
			p.t.Errorf("read: %v", err)
		}
		if _, err := f.WriteAt([]byte("x"), -1); err == nil {
			p.t.Error("write: no error")
		}
		if err := f.Truncate(-1); err == nil {
			p.t.Error("truncate: no error")
		}
		if err := f.Allocate(-1, 1); err == nil {
			p.t.Error("allocate: no error")
		}
		if _, _, err := f.NextData(-1); err == nil {
			p.t.Error("next data: no error")
		}
		p.reads(f, "")
	},
	"write vectors":  func(p place) { p.writesVectors(vfs.File.WriteVecAt) },
	"stream vectors": func(p place) { p.writesVectors(vfs.File.StreamVecAt) },
	"truncate": func(p place) {
		f := p.create("a")
		p.write(f, 0, strings.Repeat("x", 2000))
		p.must(f.Truncate(700))
		p.reads(f, strings.Repeat("x", 700))
		p.must(f.Truncate(3000)) // what was cut off does not come back
		p.reads(f, strings.Repeat("x", 700)+zeroes(2300))
		p.must(f.Truncate(0))
		p.reads(f, "")
	},
	"allocate": func(p place) {
		f := p.create("a")
		p.write(f, 0, "abc")
		p.must(f.Allocate(1, 5000))
		p.reads(f, "abc"+zeroes(4998))
		p.must(f.Allocate(0, 10)) // inside: nothing changes
		p.must(f.Allocate(9000, 0))
		p.reads(f, "abc"+zeroes(4998))
	},
	"punch hole": func(p place) {
		f := p.create("a")
		p.write(f, 0, strings.Repeat("x", 20_000))
		p.must(f.PunchHole(100, 9_900))
		want := strings.Repeat("x", 100) + zeroes(9_900) + strings.Repeat("x", 10_000)
		p.reads(f, want)
		p.must(f.PunchHole(19_999, 50_000)) // the size stays
		want = want[:19_999] + "\x00"
		p.reads(f, want)
		p.must(f.PunchHole(0, 0))
		p.must(f.PunchHole(90_000, 1000))
		p.reads(f, want)
	},
	"next data covers what is not zero": func(p place) {
		const unit = 64 << 10 // larger than any block of the file systems in use
		f := p.create("a")
		p.must(f.Truncate(10 * unit))
		if _, n, err := f.NextData(0); n != 0 || err != nil {
			p.t.Fatalf("a file of holes: length %d, %v", n, err)
		}
		p.write(f, 2*unit+5, "x")
		p.write(f, 5*unit, strings.Repeat("y", 2*unit))
		p.must(f.Sync()) // before that ext4 may not tell data from a hole
		found := map[int64]bool{}
		for off := int64(0); ; {
			start, n, err := f.NextData(off)
			p.must(err)
			if n == 0 {
				break
			}
			if start < off || n < 0 {
				p.t.Fatalf("asked from %d, got [%d, +%d)", off, start, n)
			}
			for u := start / unit; u*unit < start+n; u++ {
				found[u] = true
			}
			off = start + n
		}
		if len(found) != 3 || !found[2] || !found[5] || !found[6] {
			p.t.Fatalf("found data in units %v, want 2, 5 and 6", found)
		}
		start, n, err := f.NextData(5*unit + 100)
		p.must(err)
		if start != 5*unit+100 || start+n != 7*unit {
			p.t.Fatalf("from inside data: [%d, +%d)", start, n)
		}
		if _, n, err := f.NextData(50 * unit); n != 0 || err != nil {
			p.t.Fatalf("beyond the end: length %d, %v", n, err)
		}
	},
	"try read": func(p place) {
		f := p.create("a")
		p.write(f, 0, "abcdef")
		p.must(f.Sync())
		buf := make([]byte, 3)
		// A file system that cannot read without waiting may refuse, but
		// what it says it has done it must have done.
		done, err := f.TryReadAt(buf, 1)
		p.must(err)
		if done && string(buf) != "bcd" {
			p.t.Fatalf("read %q", buf)
		}
		done, err = f.TryReadAt(buf, 4)
		p.must(err)
		if done {
			p.t.Fatal("a read past the end was done")
		}
		f.DropCache()
		p.reads(f, "abcdef")
	},
	"remove": func(p place) {
		f := p.create("a")
		p.write(f, 0, "x")
		p.must(p.fs.Remove(p.path("a")))
		p.lists("")
		p.reads(f, "x") // an open file stays
		p.must(p.fs.MkdirAll(p.path("d/e")))
		p.fails(vfs.ErrNotEmpty, p.fs.Remove(p.path("d")))
		p.must(p.fs.Remove(p.path("d/e")))
		p.must(p.fs.Remove(p.path("d")))
		p.lists("")
	},
	"remove all": func(p place) {
		p.must(p.fs.MkdirAll(p.path("d/e")))
		p.create("d/e/a")
		p.create("d/b")
		p.create("f")
		p.must(p.fs.RemoveAll(p.path("d")))
		p.lists("", "f")
		p.must(p.fs.RemoveAll(p.path("f")))
		p.lists("")
	},
	"rename": func(p place) {
		p.write(p.create("a"), 0, "new")
		old := p.create("b")
		p.write(old, 0, "old")
		p.must(p.fs.Rename(p.path("a"), p.path("b")))
		p.lists("", "b")
		f, err := p.fs.Open(p.path("b"))
		p.must(err)
		p.reads(f, "new")
		p.reads(old, "old")
		p.must(f.Close())
		p.must(p.fs.Rename(p.path("b"), p.path("b")))
		p.must(p.fs.MkdirAll(p.path("d")))
		p.must(p.fs.Rename(p.path("b"), p.path("d/c")))
		p.lists("", "d")
		p.lists("d", "c")
	},
	"link": func(p place) {
		f := p.create("a")
		p.write(f, 0, "one")
		p.must(p.fs.MkdirAll(p.path("d")))
		p.must(p.fs.Link(p.path("a"), p.path("d/b")))
		p.write(f, 0, "two")
		p.must(p.fs.Remove(p.path("a")))
		p.lists("", "d")
		other, err := p.fs.Open(p.path("d/b"))
		p.must(err)
		p.reads(other, "two")
		p.must(other.Close())
		p.create("c")
		p.fails(vfs.ErrExist, p.fs.Link(p.path("c"), p.path("d/b")))
		p.fails(vfs.ErrNotExist, p.fs.Link(p.path("a"), p.path("e")))
		if err := p.fs.Link(p.path("d"), p.path("e")); err == nil {
			p.t.Error("a directory has two names")
		}
	},
	"rename directories": func(p place) {
		p.must(p.fs.MkdirAll(p.path("d")))
		p.create("d/a")
		p.must(p.fs.MkdirAll(p.path("empty")))
		p.must(p.fs.MkdirAll(p.path("full/x")))
		p.create("f")
		p.fails(vfs.ErrNotEmpty, p.fs.Rename(p.path("d"), p.path("full")))
		if err := p.fs.Rename(p.path("d"), p.path("f")); err == nil {
			p.t.Error("a directory replaced a file")
		}
		if err := p.fs.Rename(p.path("f"), p.path("d")); err == nil {
			p.t.Error("a file replaced a directory")
		}
		if err := p.fs.Rename(p.path("d"), p.path("d/e")); err == nil {
			p.t.Error("a directory moved into itself")
		}
		p.must(p.fs.Rename(p.path("d"), p.path("empty")))
		p.lists("", "empty", "f", "full")
		p.lists("empty", "a")
	},
	"make and list directories": func(p place) {
		p.must(p.fs.MkdirAll(p.path("d/e/f")))
		p.must(p.fs.MkdirAll(p.path("d/e")))
		for _, name := range []string{"d/b", "d/c", "d/a"} {
			p.create(name)
		}
		p.lists("d", "a", "b", "c", "e")
		size, err := p.fs.Stat(p.path("d"))
		p.must(err)
		if size != 0 {
			p.t.Errorf("a directory has size %d", size)
		}
		p.must(p.fs.SyncDir(p.path("d")))
	},
	"lock": func(p place) {
		lock, err := p.fs.Lock(p.path("lock"))
		p.must(err)
		_, err = p.fs.Lock(p.path("lock"))
		p.fails(vfs.ErrLocked, err)
		other, err := p.fs.Lock(p.path("other"))
		p.must(err)
		p.must(other.Close())
		p.must(lock.Close())
		p.fails(vfs.ErrClosed, lock.Close())
		again, err := p.fs.Lock(p.path("lock"))
		p.must(err)
		p.fails(vfs.ErrClosed, lock.Close()) // and does not unlock the other
		_, err = p.fs.Lock(p.path("lock"))
		p.fails(vfs.ErrLocked, err)
		p.must(again.Close())
		p.lists("", "lock", "other")
	},
	"database": func(p place) {
		db, err := p.fs.OpenDB(p.path("db"))
		p.must(err)
		p.must(db.Update(func(tx kv.Tx) error { return tx.Put("b", []byte("k"), []byte("v")) }))
		_, err = p.fs.OpenDB(p.path("db"))
		p.fails(vfs.ErrLocked, err)
		p.fails(kv.ErrLocked, err)
		p.must(db.Close())
		p.fails(kv.ErrClosed, db.Update(func(kv.Tx) error { return nil }))
		p.fails(kv.ErrClosed, db.View(func(kv.Tx) error { return nil }))
		db, err = p.fs.OpenDB(p.path("db"))
		p.must(err)
		var got string
		p.must(db.View(func(tx kv.Tx) error { got = string(tx.Get("b", []byte("k"))); return nil }))
		if got != "v" {
			p.t.Errorf("got %q after opening again, want v", got)
		}
		p.must(db.Close())
		p.lists("", "db")
		_, err = p.fs.Stat(p.path("db"))
		p.must(err)
		p.must(p.fs.Remove(p.path("db")))
		p.lists("")
	},
	"space": func(p place) {
		total, free, err := p.fs.Space(p.dir)
		p.must(err)
		if free <= 0 || total < free {
			p.t.Errorf("%d free of %d bytes", free, total)
		}
	},
	"concurrent writes and reads": func(p place) {
		f := p.create("a")
		const workers, rounds, size = 4, 50, 700
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for r := range rounds {
					want := bytes.Repeat([]byte{byte(w*rounds + r)}, size)
					if _, err := f.WriteAt(want, int64(w*size)); err != nil {
						p.t.Error(err)
					}
					got := make([]byte, size)
					if _, err := f.ReadAt(got, int64(w*size)); err != nil || !bytes.Equal(got, want) {
						p.t.Errorf("worker %d read back something else (%v)", w, err)
					}
					f.StartWriteback(0, size)
					if err := f.Sync(); err != nil {
						p.t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	},
}

func TestBehaviour(t *testing.T) {
	makers := map[string]func(t *testing.T) place{
		"os":  func(t *testing.T) place { return place{t, vfs.OS{}, t.TempDir()} },
		"mem": func(t *testing.T) place { return place{t, memWith(t, "/store"), "/store"} },
		"fault over mem": func(t *testing.T) place {
			return place{t, vfs.NewFault(memWith(t, "/store")), "/store"}
		},
	}
	for maker, newPlace := range makers {
		for name, behaviour := range behaviours {
			t.Run(maker+"/"+name, func(t *testing.T) { behaviour(newPlace(t)) })
		}
	}
}

// memWith returns a Mem with a durable directory below its root.
func memWith(t *testing.T, dir string) *vfs.Mem {
	t.Helper()
	m := vfs.NewMem()
	if err := m.MkdirAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := m.SyncDir(filepath.Dir(dir)); err != nil {
		t.Fatal(err)
	}
	return m
}

func (p place) writesVectors(write func(vfs.File, [][]byte, int64) (int, error)) {
	f := p.create("a")
	n, err := write(f, [][]byte{[]byte("ab"), {}, nil, []byte("c"), []byte("def")}, 1)
	p.must(err)
	if n != 6 {
		p.t.Fatalf("wrote %d, want 6", n)
	}
	p.reads(f, "\x00abcdef")
	n, err = write(f, nil, 0)
	if n != 0 || err != nil {
		p.t.Fatalf("no buffers: %d, %v", n, err)
	}
	// More than one system call takes.
	var many [][]byte
	for i := range 3000 {
		many = append(many, bytes.Repeat([]byte{byte(i)}, i%3))
	}
	n, err = write(f, many, 0)
	p.must(err)
	want := string(slices.Concat(many...))
	if n != len(want) {
		p.t.Fatalf("wrote %d, want %d", n, len(want))
	}
	p.reads(f, want)
	p.must(f.Sync())
	p.reads(f, want) // from wherever it is by now
	n, err = write(f, [][]byte{[]byte("over")}, 2)
	p.must(err)
	if n != 4 {
		p.t.Fatalf("wrote %d, want 4", n)
	}
	p.reads(f, want[:2]+"over"+want[6:])
}
