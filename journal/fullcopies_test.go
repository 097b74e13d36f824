package journal

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// A file system that does not write in place (btrfs, a thin one) can be short of
// room for what was allocated. That stops nothing for good.
func TestNoRoomForWhatWasAllocated(t *testing.T) {
	const trailer = MinSegmentBytes - blockBytes
	for name, fails := range map[string]func(w scarceWrite) bool{
		"record":              func(w scarceWrite) bool { return w.vector && w.off > blockBytes },
		"header of a segment": func(w scarceWrite) bool { return !w.vector && w.off == 0 },
		"footer":              func(w scarceWrite) bool { return !w.vector && w.off > 0 && w.off < trailer },
		"trailer":             func(w scarceWrite) bool { return !w.vector && w.off == trailer },
	} {
		t.Run(name, func(t *testing.T) {
			r := newFullRig(t, 100, nil)
			ctx := context.Background()
			scarce := &scarceFS{FS: r.mem, fails: fails}
			mustClose(t, r.s)
			r.cfg.FS = scarce
			r.s = mustOpen(t, r.cfg)
			scarce.armed.Store(true)
			for i := range 40 {
				p, off := bytes.Repeat([]byte{2}, 32<<10), int64(i)*(32<<10)
				_, err := r.s.Write(p, off)
				if errors.Is(err, ErrFull) {
					_, err = r.s.Write(p, off)
				}
				if err != nil {
					t.Fatalf("write %d: %v", i, err)
				}
				if err := r.s.Maintain(ctx); err != nil && !errors.Is(err, ErrFull) {
					t.Fatalf("maintain %d: %v", i, err)
				}
			}
			if scarce.armed.Load() {
				t.Error("nothing failed")
			}
			want := readAll(t, r.s, testVolumeBytes)
			if !bytes.Equal(want[:40*(32<<10)], bytes.Repeat([]byte{2}, 40*(32<<10))) {
				t.Error("content differs")
			}
			if err := r.s.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			r.cfg.FS = r.mem.KillClone()
			mustClose(t, r.s)
			s := mustOpen(t, r.cfg)
			if !bytes.Equal(readAll(t, s, testVolumeBytes), want) {
				t.Error("content differs after a kill")
			}
			mustClose(t, s)
		})
	}
}

// scarceFS has no room, once, for a write to a segment that a test has chosen;
// half of it is done.
type scarceFS struct {
	vfs.FS
	fails func(scarceWrite) bool
	armed atomic.Bool
}

type scarceWrite struct {
	vector bool
	off    int64
}

func (s *scarceFS) Create(name string) (vfs.File, error) {
	f, err := s.FS.Create(name)
	return scarceFile{f, s, name}, err
}

func (s *scarceFS) Open(name string) (vfs.File, error) {
	f, err := s.FS.Open(name)
	return scarceFile{f, s, name}, err
}

type scarceFile struct {
	vfs.File
	fs   *scarceFS
	name string
}

func (f scarceFile) WriteAt(p []byte, off int64) (int, error) {
	if f.refuses(scarceWrite{false, off}) {
		n, err := f.File.WriteAt(p[:len(p)/2], off)
		return n, errors.Join(err, vfs.ErrNoSpace)
	}
	return f.File.WriteAt(p, off)
}

func (f scarceFile) WriteVecAt(bufs [][]byte, off int64) (int, error) {
	if f.refuses(scarceWrite{true, off}) {
		n, err := f.File.WriteVecAt(bufs[:1], off)
		return n, errors.Join(err, vfs.ErrNoSpace)
	}
	return f.File.WriteVecAt(bufs, off)
}

func (f scarceFile) refuses(w scarceWrite) bool {
	return strings.HasSuffix(f.name, ".seg") && f.fs.fails(w) && f.fs.armed.CompareAndSwap(true, false)
}

// Of a batch that finds no room half-way the first writes are there, and the
// others can be repeated.
func TestBatchWithoutRoomForAllOfIt(t *testing.T) {
	r := newFullRig(t, 100, nil)
	scarce := &scarceFS{FS: r.mem, fails: func(w scarceWrite) bool { return w.vector }}
	mustClose(t, r.s)
	r.cfg.FS = &cutFS{scarce}
	r.s = mustOpen(t, r.cfg)
	writes := make([]BatchWrite, 4)
	for i := range writes {
		writes[i] = BatchWrite{Offset: int64(i) * 8192, Data: bytes.Repeat([]byte{byte(i + 1)}, 8192)}
	}
	scarce.armed.Store(true)
	if err := r.s.WriteBatch(writes); err != nil {
		t.Fatalf("the rest was not tried again: %v", err)
	}
	for i := range writes {
		got := make([]byte, 8192)
		if err := r.s.ReadAt(got, writes[i].Offset); err != nil || !bytes.Equal(got, writes[i].Data) {
			t.Errorf("write %d: %v, or its content differs", i, err)
		}
	}
	if err := r.s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.cfg.FS = r.mem.KillClone()
	mustClose(t, r.s)
	s := mustOpen(t, r.cfg)
	got := make([]byte, 4*8192)
	if err := s.ReadAt(got, 0); err != nil || got[3*8192] != 4 {
		t.Errorf("after a kill: %v, or content differs", err)
	}
	mustClose(t, s)
}

// cutFS is a scarceFS whose vectors stop in the middle of the second record.
type cutFS struct{ *scarceFS }

func (c *cutFS) Create(name string) (vfs.File, error) {
	f, err := c.FS.Create(name)
	return cutFile{scarceFile{f, c.scarceFS, name}}, err
}

func (c *cutFS) Open(name string) (vfs.File, error) {
	f, err := c.FS.Open(name)
	return cutFile{scarceFile{f, c.scarceFS, name}}, err
}

type cutFile struct{ scarceFile }

func (f cutFile) WriteVecAt(bufs [][]byte, off int64) (int, error) {
	if f.refuses(scarceWrite{true, off}) {
		all := bytes.Join(bufs, nil)
		n, err := f.File.WriteAt(all[:frameBytes(8192)+5000], off)
		return n, errors.Join(err, vfs.ErrNoSpace)
	}
	return f.File.WriteVecAt(bufs, off)
}

// beginlessFS is full, and its files are copied where they are written over: no segment
// can be begun, in a new file or in an old one, before a segment's file was removed.
type beginlessFS struct {
	*scarceFS
	full atomic.Bool
}

func newBeginlessFS(below vfs.FS) *beginlessFS {
	b := &beginlessFS{scarceFS: &scarceFS{FS: below}}
	b.fails = func(w scarceWrite) bool {
		if b.full.Load() && !w.vector && w.off == 0 {
			b.armed.Store(true)
			return true
		}
		return false
	}
	return b
}

func (b *beginlessFS) Create(name string) (vfs.File, error) {
	if b.full.Load() && strings.HasSuffix(name, ".seg") {
		return nil, vfs.ErrNoSpace
	}
	return b.scarceFS.Create(name)
}

func (b *beginlessFS) Remove(name string) error {
	err := b.scarceFS.Remove(name)
	if err == nil && strings.HasSuffix(name, ".seg") {
		b.full.Store(false)
	}
	return err
}

// TestNoRoomToBeginASegment: where the first write that finds no room is the header of a
// segment in a file that is used again, history is given up for it, as for a record.
func TestNoRoomToBeginASegment(t *testing.T) {
	r := newFullRig(t, 100, nil)
	mustClose(t, r.s)
	disk := newBeginlessFS(r.mem)
	r.cfg.FS = disk
	r.s = mustOpen(t, r.cfg)
	r.mustWrite(8, testVolumeBytes, 1)
	r.s.SetRetention(Retention{JournalBytes: r.s.Stats().JournalBytes - MinSegmentBytes}) // so that there is a file to be used again
	if err := r.s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.s.SetRetention(Retention{})
	disk.full.Store(true)
	for i := range 64 {
		if err := r.write(2, int64(i)*(32<<10)%testVolumeBytes); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	if disk.full.Load() || r.s.Stats().Space.Refused == 0 {
		t.Errorf("nothing was refused: %+v", r.s.Stats().Space)
	}
	mustClose(t, r.s)
}
