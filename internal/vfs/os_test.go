package vfs_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// mounted returns a directory on a fresh file system.
func mounted(t *testing.T, fstype, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("not tested: behaviour on %s; mounting it needs root", fstype)
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, fstype, 0, options); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENODEV) {
			t.Skipf("not tested: behaviour on %s; mount: %v", fstype, err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func TestBehaviourOnTmpfs(t *testing.T) {
	for name, behaviour := range behaviours {
		t.Run(name, func(t *testing.T) {
			behaviour(place{t, vfs.OS{}, mounted(t, "tmpfs", "size=8m")})
		})
	}
}

// ramfs has neither fallocate nor holes: the emulations must do.
func TestBehaviourWithoutFallocate(t *testing.T) {
	for _, name := range []string{"allocate", "punch hole", "truncate", "write vectors", "try read"} {
		t.Run(name, func(t *testing.T) {
			behaviours[name](place{t, vfs.OS{}, mounted(t, "ramfs", "")})
		})
	}
	t.Run("all counts as data", func(t *testing.T) {
		p := place{t, vfs.OS{}, mounted(t, "ramfs", "")}
		f := p.create("a")
		p.must(f.Truncate(100_000))
		start, length, err := f.NextData(7)
		p.must(err)
		if start != 7 || length != 100_000-7 {
			t.Errorf("got [%d, +%d), want the rest of the file", start, length)
		}
	})
}

func TestAFullDiskIsErrNoSpace(t *testing.T) {
	p := place{t, vfs.OS{}, mounted(t, "tmpfs", "size=1m")}
	f := p.create("a")
	megabyte := make([]byte, 1<<20)
	calls := map[string]func() error{
		"allocate": func() error { return f.Allocate(0, 4<<20) },
		"write":    func() error { _, err := f.WriteAt(make([]byte, 4<<20), 0); return err },
		"write vectors": func() error {
			n, err := f.WriteVecAt([][]byte{megabyte[:5000], megabyte, megabyte}, 0)
			if n == 0 || n >= 2<<20 {
				t.Errorf("wrote %d bytes to a disk of 1 MiB", n)
			}
			return err
		},
		"stream vectors": func() error {
			n, err := f.StreamVecAt([][]byte{megabyte[:5000], megabyte, megabyte}, 0)
			if n == 0 || n >= 2<<20 {
				t.Errorf("streamed %d bytes to a disk of 1 MiB", n)
			}
			return err
		},
	}
	for name, call := range calls {
		err := call()
		if !errors.Is(err, vfs.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: got %v, want ErrNoSpace and the errno", name, err)
		}
		p.must(f.Truncate(0))
	}
	if _, free, err := p.fs.Space(p.dir); err != nil || free != 1<<20 {
		t.Errorf("%d bytes free, %v; want all", free, err)
	}
}

// A commit that does not fit fails and changes nothing; when there is space
// again the database goes on.
func TestACommitOnAFullDisk(t *testing.T) {
	p := place{t, vfs.OS{}, mounted(t, "tmpfs", "size=8m")}
	db, err := p.fs.OpenDB(p.path("db"))
	p.must(err)
	defer func() { _ = db.Close() }()
	p.must(putOne(db, "before"))
	ballast := p.create("ballast")
	_, free, err := p.fs.Space(p.dir)
	p.must(err)
	p.must(ballast.Allocate(0, free))
	large := func(tx kv.Tx) error { return tx.Put("b", []byte("large"), make([]byte, 2_000_000)) }
	p.fails(vfs.ErrNoSpace, db.Update(large))
	p.must(ballast.Truncate(0))
	p.must(db.Update(large))
	p.must(db.Close())
	if got := keysOf(t, p.fs, p.path("db")); got != "before large" {
		t.Errorf("got %q, want both keys", got)
	}
}

func TestModes(t *testing.T) {
	p := place{t, vfs.OS{}, t.TempDir()}
	p.create("file")
	lock, err := p.fs.Lock(p.path("lock"))
	p.must(err)
	defer func() { _ = lock.Close() }()
	db, err := p.fs.OpenDB(p.path("db"))
	p.must(err)
	defer func() { _ = db.Close() }()
	p.must(p.fs.MkdirAll(p.path("d/e")))
	want := map[string]fs.FileMode{
		"file": 0o600, "lock": 0o600, "db": 0o600, "d": 0o700 | fs.ModeDir, "d/e": 0o700 | fs.ModeDir,
	}
	for name, mode := range want {
		info, err := os.Stat(p.path(name))
		p.must(err)
		if info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), mode)
		}
	}
}

func TestErrorsNameOperationAndFileOnce(t *testing.T) {
	name := filepath.Join(t.TempDir(), "none")
	_, err := vfs.OS{}.Open(name)
	if want := "open " + name + ": no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the errno behind the error cannot be matched")
	}
}

func TestTryReadOfCachedDataIsDone(t *testing.T) {
	dir := t.TempDir()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if st.Type != unix.EXT4_SUPER_MAGIC && st.Type != unix.XFS_SUPER_MAGIC {
		t.Skipf("not tested: reading from the cache; file system type %#x may not be able to", st.Type)
	}
	p := place{t, vfs.OS{}, dir}
	f := p.create("a")
	want := bytes.Repeat([]byte("x"), 16<<10)
	p.write(f, 0, string(want))
	got := make([]byte, len(want))
	done, err := f.TryReadAt(got, 0)
	if err != nil || !done || !bytes.Equal(got, want) {
		t.Errorf("done %v, error %v for data that was just written", done, err)
	}
}

// onDisk is a file of whole blocks on a file system with direct writes.
func onDisk(t *testing.T, blocks int) vfs.File {
	t.Helper()
	p := place{t, vfs.OS{}, t.TempDir()}
	f := p.create("a")
	t.Cleanup(func() { _ = f.Close() })
	p.write(f, 0, strings.Repeat("a", blocks*vfs.DirectAlignBytes))
	p.must(f.Sync())
	if _, err := f.WriteDirectAt(vfs.AlignedBytes(vfs.DirectAlignBytes), 0); errors.Is(err, vfs.ErrNoDirect) {
		t.Skip("not tested: direct writes, which this directory's file system does not have")
	}
	return f
}

// A read through the page cache that begins after a direct write has ended sees it,
// whatever others read meanwhile. The base of a store is written and read so.
func TestDirectWritesAreCoherent(t *testing.T) {
	const blocks, rounds = 64, 300
	f := onDisk(t, blocks)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			all := make([]byte, blocks*vfs.DirectAlignBytes)
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := f.ReadAt(all, 0); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	p, got := vfs.AlignedBytes(blocks/2*vfs.DirectAlignBytes), make([]byte, blocks/2*vfs.DirectAlignBytes)
	for round := range rounds {
		off := int64(round%blocks/2) * vfs.DirectAlignBytes
		for i := range p {
			p[i] = byte(round)
		}
		if _, err := f.WriteDirectAt(p, off); err != nil {
			t.Error(err)
			break
		}
		if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, p) {
			t.Errorf("round %d: a read behind the write sees something else (%v)", round, err)
			break
		}
	}
	close(done)
	readers.Wait()
	if err := f.Sync(); err != nil { // which would tell that a page could not be dropped
		t.Error(err)
	}
}

// What was written through the page cache just before is on disk under a direct
// write beside it, and neither hides the other.
func TestDirectWriteBesideDirtyPages(t *testing.T) {
	const block = vfs.DirectAlignBytes
	f := onDisk(t, 8)
	p := vfs.AlignedBytes(4 * block)
	for i := range p {
		p[i] = 'd'
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte("c"), 7*block), 100); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteDirectAt(p, 2*block); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	f.DropCache()
	got := make([]byte, 8*block)
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	want := slices.Concat(make([]byte, 100), bytes.Repeat([]byte("c"), 2*block-100), p, bytes.Repeat([]byte("c"), block+100), bytes.Repeat([]byte("a"), block-100))
	if !bytes.Equal(got, want) {
		t.Error("read something else than what was written")
	}
}

// ramfs has no direct writes: they are refused, and nothing else is.
func TestNoDirectWrites(t *testing.T) {
	p := place{t, vfs.OS{}, mounted(t, "ramfs", "")}
	f := p.create("a")
	p.write(f, 0, strings.Repeat("a", vfs.DirectAlignBytes))
	for range 2 {
		_, err := f.WriteDirectAt(vfs.AlignedBytes(vfs.DirectAlignBytes), 0)
		p.fails(vfs.ErrNoDirect, err)
	}
	p.reads(f, strings.Repeat("a", vfs.DirectAlignBytes))
	p.must(f.Close())
}

func TestAlignedBytes(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, 1 << 20} {
		b := vfs.AlignedBytes(n)
		if len(b) != n || cap(b) != n || n > 0 && uintptr(unsafe.Pointer(&b[0]))%vfs.DirectAlignBytes != 0 {
			t.Errorf("%d bytes: %d of %d at %p", n, len(b), cap(b), b)
		}
	}
}

const lockHolderEnv = "LOCKSTEP_TEST_LOCK"

// TestMain is also the process that TestAKilledHolderLosesTheLock kills.
func TestMain(m *testing.M) {
	name := os.Getenv(lockHolderEnv)
	if name == "" {
		os.Exit(m.Run())
	}
	_, err := vfs.OS{}.Lock(name)
	fmt.Printf("locked: %v\n", err)
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent kills it, or is gone
}

func TestAKilledHolderLosesTheLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), lockHolderEnv+"="+name)
	stdin, err1 := holder.StdinPipe()
	stdout, err2 := holder.StdoutPipe()
	must(t, err1, err2, holder.Start())
	defer func() { _ = stdin.Close() }()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "locked: <nil>" {
		t.Fatalf("the holder said %q, %v", line, err)
	}
	if _, err := (vfs.OS{}).Lock(name); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("while it lives: got %v, want ErrLocked", err)
	}
	must(t, holder.Process.Kill())
	_ = holder.Wait() // reports the kill
	lock, err := vfs.OS{}.Lock(name)
	must(t, err, lock.Close())
}

func BenchmarkTryReadAt(b *testing.B) {
	f, err := vfs.OS{}.Create(filepath.Join(b.TempDir(), "a"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	p := make([]byte, 4096)
	if _, err := f.WriteAt(p, 0); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if done, err := f.TryReadAt(p, 0); !done || err != nil {
			b.Fatal(done, err)
		}
	}
}

func BenchmarkWriteVecAt(b *testing.B) {
	f, err := vfs.OS{}.Create(filepath.Join(b.TempDir(), "a"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	bufs := [][]byte{make([]byte, 64), make([]byte, 4096)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.WriteVecAt(bufs, 0); err != nil {
			b.Fatal(err)
		}
	}
}
