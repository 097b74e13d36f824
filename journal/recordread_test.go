package journal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// countedReads is a file system that counts what is read of segments.
type countedReads struct {
	vfs.FS
	calls, bytes atomic.Int64
}

func (c *countedReads) Open(name string) (vfs.File, error)   { return c.file(c.FS.Open(name)) }
func (c *countedReads) Create(name string) (vfs.File, error) { return c.file(c.FS.Create(name)) }

func (c *countedReads) file(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &countedFile{f, c}, nil
}

// since runs f and returns the calls and bytes that it read.
func (c *countedReads) since(f func()) (calls, bytes int64) {
	calls, bytes = c.calls.Load(), c.bytes.Load()
	f()
	return c.calls.Load() - calls, c.bytes.Load() - bytes
}

type countedFile struct {
	vfs.File
	of *countedReads
}

func (f *countedFile) ReadAt(p []byte, off int64) (int, error) {
	f.of.calls.Add(1)
	f.of.bytes.Add(int64(len(p)))
	return f.File.ReadAt(p, off)
}

// longRecords is a store of records of all lengths, some of which hide parts of
// others, in sealed segments and in one that is not.
type longRecords struct {
	mem   *vfs.Mem
	fs    *countedReads
	s     *Store
	image []byte
}

const longVolumeBytes = 4 << 20

func newLongRecords(t *testing.T, segmentBytes int64) *longRecords {
	t.Helper()
	l := &longRecords{mem: vfs.NewMem(), image: make([]byte, longVolumeBytes)}
	l.fs = &countedReads{FS: l.mem}
	makeParent(t, l.mem)
	cfg := Config{FS: l.fs, Dir: worldDir, SegmentBytes: segmentBytes}
	if err := Create(cfg, Spec{testVolume, longVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	l.s = mustOpen(t, cfg)
	return l
}

func (l *longRecords) write(t *testing.T, rng *rand.Rand, off, length int64) {
	t.Helper()
	p := randomBytes(rng, length)
	copy(l.image[off:], p)
	if _, err := l.s.Write(p, off); err != nil {
		t.Fatal(err)
	}
}

// seal makes what was written so far a sealed segment.
func (l *longRecords) seal(t *testing.T) {
	t.Helper()
	l.s.appendMu.Lock()
	l.s.retireActive()
	l.s.appendMu.Unlock()
	if err := l.s.sealPending(); err != nil {
		t.Fatal(err)
	}
}

// forget makes the store know nothing of its records that it did not read.
func (l *longRecords) forget() {
	l.s.frames, l.s.parts = newAgedCache[frameList](1<<20), newAgedCache[*recordParts](1<<20)
}

// read reads a part of the volume and compares it with what was written.
func (l *longRecords) read(t *testing.T, off, length int64) {
	t.Helper()
	p := make([]byte, length)
	if err := l.s.ReadAt(p, off); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p, l.image[off:off+length]) {
		t.Fatalf("%d bytes at %d differ from what was written", length, off)
	}
}

// TestPartsOfRecordsRead: every read is right, of sealed segments and others, also
// where the middle of a record is hidden.
func TestPartsOfRecordsRead(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	l := newLongRecords(t, 0)
	for i := range 60 {
		length := []int64{1, 8, 32, 33, 129, 2048}[i%6] * SectorBytes
		l.write(t, rng, rng.Int64N((longVolumeBytes-length)/SectorBytes+1)*SectorBytes, length)
		if i%7 == 3 {
			off, length := randomExtent(rng, longVolumeBytes, 500)
			if _, err := l.s.Discard(off, length); err != nil {
				t.Fatal(err)
			}
			clear(l.image[off:][:length])
		}
		if i == 40 {
			l.seal(t)
		}
	}
	check := func() {
		t.Helper()
		for range 2000 {
			off, length := randomExtent(rng, longVolumeBytes, 300)
			l.read(t, off, length)
		}
		l.read(t, 0, longVolumeBytes)
	}
	check()
	l.seal(t)
	check()
	l.forget() // what the appends and the seal left behind
	check()
	mustClose(t, l.s)
}

// TestWhatReadsOfRecordsCost: one call for a record of 4 KiB, and for a part of a long one
// that was appended by this process; of another's, the record once for all its parts.
func TestWhatReadsOfRecordsCost(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	l := newLongRecords(t, 0)
	l.write(t, rng, 0, 4096)
	l.write(t, rng, 1<<20, 1<<20)
	l.write(t, rng, 2<<20, 1<<20)
	want := func(what string, calls, bytes int64, do func()) {
		t.Helper()
		if gotCalls, gotBytes := l.fs.since(do); gotCalls != calls || gotBytes != bytes {
			t.Errorf("%s: %d calls of %d bytes in all, want %d and %d", what, gotCalls, gotBytes, calls, bytes)
		}
	}
	const first = frameHeaderBytes // of a try: what is read with a piece
	for range 2 {                  // before and after the segment is sealed
		want("a record of 4 KiB", 1, first+4096, func() { l.read(t, 0, 4096) })
		want("one of 1 MiB", 2, frameHeaderBytes+1<<20, func() { l.read(t, 1<<20, 1<<20) })
		want("a part of it", 1, first+4096, func() { l.read(t, 1<<20+8192, 4096) })
		want("a part at odds with its parts", 3, first+4096+2*partBytes, func() { l.read(t, 1<<20+64<<10+512, 4096) })
		want("its beginning", 1, first+4096, func() { l.read(t, 1<<20, 4096) })
		l.seal(t)
	}
	l.forget()
	want("a part of a record that is not known", 6, first+4096+4*frameHeaderBytes+1<<20, func() { l.read(t, 1<<20+8192, 4096) })
	want("another part of it", 1, first+4096, func() { l.read(t, 1<<20+64<<10, 4096) })
	want("a part of the next, whose frame is known", 3, first+4096+frameHeaderBytes+1<<20, func() { l.read(t, 2<<20+8192, 4096) })
	mustClose(t, l.s)
}

// TestWhatReadsOfTheBaseCost: one call for the bytes and one for their checksums.
func TestWhatReadsOfTheBaseCost(t *testing.T) {
	l := newLongRecords(t, 0)
	l.write(t, rand.New(rand.NewPCG(6, 6)), 0, 1<<20)
	destageAll(t, l.s)
	for _, length := range []int64{SectorBytes, 4096, 1 << 20} {
		calls, bytes := l.fs.since(func() { l.read(t, 0, length) })
		if want := length + sumOffset(length); calls != 2 || bytes != want {
			t.Errorf("%d bytes: %d calls of %d bytes in all, want 2 of %d", length, calls, bytes, want)
		}
	}
	mustClose(t, l.s)
}

// TestFlippedBytesOfRecords: what is read is right or an error that names the
// segment, whatever is flipped and whatever is in memory of it.
func TestFlippedBytesOfRecords(t *testing.T) {
	for name, cold := range map[string]bool{"known parts": false, "nothing known": true} {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(3, 3))
			l := newLongRecords(t, 0)
			for range 12 {
				l.write(t, rng, rng.Int64N(128)*SectorBytes, (1+rng.Int64N(80))*SectorBytes)
			}
			l.seal(t)
			for range 4 {
				l.write(t, rng, rng.Int64N(128)*SectorBytes, (1+rng.Int64N(80))*SectorBytes)
			}
			end := int64(256 * SectorBytes)
			l.read(t, 0, end)
			met := 0
			for id, g := range l.s.segments {
				for at := int64(blockBytes); at < g.end; at += 1 + rng.Int64N(200) {
					if cold {
						l.forget()
					}
					mask := byte(1) << rng.IntN(8)
					flip(t, l.mem, segmentName(id), at, mask)
					met += len(sectorsThatFail(t, l.s, l.image, 0, end))
					for _, d := range l.s.Damaged() {
						if !strings.HasPrefix(d.File, journalDir) || d.Wanted == d.Found {
							t.Fatalf("byte %d of %s flipped: damage known is %+v", at, g.name, d)
						}
					}
					flip(t, l.mem, segmentName(id), at, mask)
				}
			}
			if met < 1000 {
				t.Fatalf("%d sectors failed; most bytes should be met", met)
			}
			l.read(t, 0, end)
			mustClose(t, l.s)
		})
	}
}

// TestDamagedHeaderLeavesOthersReadable: parts of the records behind it can be
// found all the same.
func TestDamagedHeaderLeavesOthersReadable(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	l := newLongRecords(t, 0)
	for i := range int64(4) {
		l.write(t, rng, i<<20, 64<<10)
	}
	l.seal(t)
	second := int64(blockBytes) + frameBytes(64<<10)
	if err := l.mem.Corrupt(path.Join(worldDir, segmentName(1)), second, 4); err != nil {
		t.Fatal(err)
	}
	l.forget()
	for _, i := range []int64{0, 2, 3} {
		l.read(t, i<<20+4096, 512)
	}
	err := l.s.ReadAt(make([]byte, 512), 1<<20+4096)
	if c := wantCorrupt(t, err, ErrCorrupt, segmentName(1)); c.Offset > second {
		t.Fatalf("damage at %d is reported at %d", second, c.Offset)
	}
	if l.s.Stats().Damaged == 0 {
		t.Fatal("no damage is known")
	}
	mustClose(t, l.s)
}

// TestTryReadAtOfRecords: without waiting where all is known, and never damaged.
func TestTryReadAtOfRecords(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	l := newLongRecords(t, 0)
	l.write(t, rng, 0, 1<<20)
	l.seal(t)
	p := make([]byte, 4096)
	done, err := l.s.TryReadAt(p, 8192)
	if !done || err != nil || !bytes.Equal(p, l.image[8192:8192+4096]) {
		t.Fatalf("done %t, %v, or other bytes, although who appended the record knows it", done, err)
	}
	l.forget()
	if done, err := l.s.TryReadAt(p, 8192); done || err != nil {
		t.Fatalf("done %t, %v before the record's frame is known", done, err)
	}
	l.read(t, 8192, 4096)
	done, err = l.s.TryReadAt(p, 8192)
	if !done || err != nil || !bytes.Equal(p, l.image[8192:8192+4096]) {
		t.Fatalf("done %t, %v, or other bytes", done, err)
	}
	flip(t, l.mem, segmentName(1), blockBytes+frameHeaderBytes+8192, 1)
	if done, err := l.s.TryReadAt(p, 8192); done || err != nil {
		t.Fatalf("done %t, %v although the bytes are damaged", done, err)
	}
	if err := l.s.ReadAt(p, 8192); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("%v, want ErrCorrupt", err)
	}
	mustClose(t, l.s)
}

// TestAgedCacheIsBounded, and keeps what is used.
func TestAgedCacheIsBounded(t *testing.T) {
	c := newAgedCache[frameList](64 << 10)
	at := func(i int) segmentPlace { return segmentPlace{nil, int64(i)} }
	for i := range 1000 {
		c.put(at(i), make(frameList, 100))
		if _, ok := c.get(at(0)); !ok {
			t.Fatalf("what is used all the time is gone after %d others", i)
		}
	}
	kept := 0
	for i := range 1000 {
		if c.young[at(i)] != nil || c.old[at(i)] != nil {
			kept++
		}
	}
	if most := (64 << 10) / 400; kept > most || kept < 50 {
		t.Fatalf("%d of 1000 lists are kept, want 50 to %d", kept, most)
	}
	c.put(at(5000), make(frameList, 1<<20))
	if _, ok := c.get(at(5000)); !ok {
		t.Fatal("a list that is longer than all the rest is not kept for its reader")
	}
}
