package journal

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"path"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// directRig is a store of which all that was written is about to be destaged: runs
// that are long and aligned, runs that are not, short ones, and zeroes over what an
// earlier batch has brought to the base.
type directRig struct {
	mem   *vfs.Mem
	cfg   Config
	s     *Store
	image []byte
}

const directRigBytes = 4 << 20

func newDirectRig(t *testing.T, over func(vfs.FS) vfs.FS) *directRig {
	t.Helper()
	d := &directRig{mem: vfs.NewMem(), image: make([]byte, directRigBytes)}
	makeParent(t, d.mem)
	d.cfg = Config{FS: over(d.mem), Dir: worldDir, SegmentBytes: 4 << 20, CacheBytes: 1}
	if err := Create(d.cfg, Spec{testVolume, directRigBytes}); err != nil {
		t.Fatal(err)
	}
	d.s = mustOpen(t, d.cfg)
	rng := rand.New(rand.NewPCG(4, 4))
	d.write(t, rng, 3<<20, 256<<10)
	destageAll(t, d.s)
	for off := int64(0); off < 2<<20; off += 256 << 10 {
		d.write(t, rng, off, 128<<10)
	}
	d.write(t, rng, 2<<20, 640<<10)                    // joined with the next
	d.write(t, rng, 2<<20+640<<10, 128<<10)            // and overwritten in the middle
	d.write(t, rng, 2<<20+8192, 4096)                  // by this
	d.write(t, rng, 1<<20+192<<10+SectorBytes, 40<<10) // aligned to nothing, and short
	d.write(t, rng, 3<<20+512<<10+SectorBytes, 96<<10) // aligned to nothing, and long
	d.write(t, rng, 3<<20+768<<10, 4096)               // alone
	d.write(t, rng, 3<<20+800<<10, SectorBytes)        // and smaller than a block
	d.write(t, rng, 3<<20+896<<10, 128<<10)            // long again
	if _, err := d.s.Discard(3<<20+4096, 128<<10); err != nil {
		t.Fatal(err)
	}
	clear(d.image[3<<20+4096:][:128<<10])
	d.s.appendMu.Lock()
	d.s.retireActive()
	d.s.appendMu.Unlock()
	if err := errors.Join(d.s.Flush(context.Background()), d.s.sealPending()); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *directRig) write(t *testing.T, rng *rand.Rand, off, length int64) {
	t.Helper()
	p := randomBytes(rng, length)
	copy(d.image[off:], p)
	if _, err := d.s.Write(p, off); err != nil {
		t.Fatal(err)
	}
}

// check compares a store with what was written.
func (d *directRig) check(t *testing.T, s *Store) {
	t.Helper()
	p := make([]byte, 1<<20)
	for off := int64(0); off < directRigBytes; off += int64(len(p)) {
		if err := s.ReadAt(p, off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, d.image[off:][:len(p)]) {
			t.Fatalf("the MiB at %d differs from what was written", off)
		}
	}
}

// checkBaseOf compares the base alone with what was written, with all destaged.
func (d *directRig) checkBaseOf(t *testing.T, mem *vfs.Mem) {
	t.Helper()
	f, err := mem.Open(path.Join(worldDir, baseFile))
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, directRigBytes)
	if err := errors.Join(readFull(f, p, 0), f.Close()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p, d.image) {
		t.Fatal("the base differs from what was written")
	}
	if report, err := Verify(context.Background(), Config{FS: mem, Dir: worldDir}); err != nil || !report.OK() {
		t.Fatalf("%+v, %v", report.Damage, err)
	}
}

// TestCrashAtEveryWriteOfDestage, of which several are under way at once: what a crash
// leaves reads as before, and the batch that is repeated makes the base whole.
func TestCrashAtEveryWriteOfDestage(t *testing.T) {
	crashes := 0
	for k := int64(1); ; k++ {
		var fault *vfs.Fault
		d := newDirectRig(t, func(fs vfs.FS) vfs.FS {
			fault = vfs.NewFault(fs)
			return fault
		})
		chance := rand.New(rand.NewPCG(1, uint64(k)))
		fault.CrashTornAt(fault.Count()+k, chance)
		err := destageUnheld(d.s)
		if !fault.Crashed() {
			if err != nil {
				t.Fatal(err)
			}
			d.checkBaseOf(t, d.mem.KillClone())
			break
		}
		crashes++
		if !errors.Is(err, vfs.ErrCrashed) {
			t.Fatalf("operation %d: %v, want the crash", k, err)
		}
		for _, left := range []*vfs.Mem{d.mem.KillClone(), d.mem.Crash(chance)} {
			if report, err := Verify(context.Background(), Config{FS: left, Dir: worldDir}); err != nil || !report.OK() {
				t.Fatalf("operation %d: %+v, %v", k, report.Damage, err)
			}
			cfg := d.cfg
			cfg.FS = left
			s := mustOpen(t, cfg)
			d.check(t, s)
			if err := destageUnheld(s); err != nil {
				t.Fatalf("operation %d: %v", k, err)
			}
			d.check(t, s)
			d.checkBaseOf(t, left.KillClone().CrashWith(nil, vfs.CrashOptions{LoseAll: true}))
			mustClose(t, s)
		}
	}
	if crashes < 20 {
		t.Fatalf("%d crashes, want one for each write", crashes)
	}
}

// noDirectFS refuses direct writes, after it has written a part of each.
type noDirectFS struct {
	vfs.FS
	refused *int
}

func (n noDirectFS) Open(name string) (vfs.File, error) {
	f, err := n.FS.Open(name)
	return noDirectFile{f, n.refused}, err
}

type noDirectFile struct {
	vfs.File
	refused *int
}

func (f noDirectFile) WriteDirectAt(p []byte, off int64) (int, error) {
	*f.refused++
	n, err := f.File.WriteAt(p[:len(p)/2], off)
	return n, errors.Join(err, vfs.ErrNoDirect)
}

// TestDestageWithoutDirectWrites: the same, through the page cache.
func TestDestageWithoutDirectWrites(t *testing.T) {
	refused := 0
	d := newDirectRig(t, func(fs vfs.FS) vfs.FS { return noDirectFS{fs, &refused} })
	d.s.cfg.directDepth = 1
	refused = 0
	destageAll(t, d.s)
	d.check(t, d.s)
	mustClose(t, d.s)
	d.checkBaseOf(t, d.mem)
	if refused < 5 {
		t.Fatalf("%d direct writes, want one for each long run", refused)
	}
}

// meetingFS finds out which writes of the base are under way together.
type meetingFS struct {
	vfs.FS
	direct, cached, most *atomic.Int64
	met                  *atomic.Bool
	// expected is set when direct writes are going to be under way together.
	expected *atomic.Bool
}

func (m meetingFS) Open(name string) (vfs.File, error) {
	f, err := m.FS.Open(name)
	if path.Base(name) != baseFile {
		return f, err
	}
	return meetingFile{f, m}, err
}

type meetingFile struct {
	vfs.File
	of meetingFS
}

// linger lets others come, and waits for the first that is expected: it may get no
// processor for a long time.
func (f meetingFile) linger() {
	for began := time.Now(); f.of.expected.Load() && f.of.most.Load() < 2 && time.Since(began) < 20*time.Second; {
		runtime.Gosched()
	}
	for range 2000 {
		runtime.Gosched()
	}
}

func (f meetingFile) WriteDirectAt(p []byte, off int64) (int, error) {
	n := f.of.direct.Add(1)
	for most := f.of.most.Load(); n > most && !f.of.most.CompareAndSwap(most, n); most = f.of.most.Load() {
	}
	defer f.of.direct.Add(-1)
	f.linger()
	if f.of.cached.Load() > 0 {
		f.of.met.Store(true)
	}
	return f.File.WriteDirectAt(p, off)
}

func (f meetingFile) alone(do func() error) error {
	f.of.cached.Add(1)
	defer f.of.cached.Add(-1)
	if f.of.direct.Load() > 0 {
		f.of.met.Store(true)
	}
	return do()
}

func (f meetingFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.alone(func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f meetingFile) PunchHole(off, length int64) error {
	return f.alone(func() error { return f.File.PunchHole(off, length) })
}

// TestDirectAndCachedWritesDoNotMeet, while direct ones do, up to their number.
func TestDirectAndCachedWritesDoNotMeet(t *testing.T) {
	m := meetingFS{nil, new(atomic.Int64), new(atomic.Int64), new(atomic.Int64), new(atomic.Bool), new(atomic.Bool)}
	d := newDirectRig(t, func(fs vfs.FS) vfs.FS {
		m.FS = fs
		return m
	})
	m.expected.Store(true) // the volume begins with long runs, one beside the other
	destageAll(t, d.s)
	mustClose(t, d.s)
	d.checkBaseOf(t, d.mem)
	if m.met.Load() {
		t.Error("a write through the page cache was under way together with a direct one")
	}
	if n := m.most.Load(); n < 2 || n > defaultDirectDepth {
		t.Errorf("at most %d direct writes were under way at once, want 2 to %d", n, defaultDirectDepth)
	}
}

// TestVolumeThatFitsInMemoryIsCached: only one that does not is destaged directly.
func TestVolumeThatFitsInMemoryIsCached(t *testing.T) {
	for _, tt := range []struct {
		cacheBytes int64
		direct     bool
	}{{0, false}, {directRigBytes, false}, {directRigBytes - 1, true}} {
		m := meetingFS{nil, new(atomic.Int64), new(atomic.Int64), new(atomic.Int64), new(atomic.Bool), new(atomic.Bool)}
		d := newDirectRig(t, func(fs vfs.FS) vfs.FS {
			m.FS = fs
			return m
		})
		d.s.cfg.CacheBytes = tt.cacheBytes
		m.most.Store(0)
		destageAll(t, d.s)
		mustClose(t, d.s)
		d.checkBaseOf(t, d.mem)
		if got := m.most.Load() > 0; got != tt.direct {
			t.Errorf("with room for %d bytes of %d: direct writes %t, want %t", tt.cacheBytes, int64(directRigBytes), got, tt.direct)
		}
	}
}

// TestFailedDirectWrite ends the batch, and what is tried after it is whole.
func TestFailedDirectWrite(t *testing.T) {
	for k := range int64(4) {
		var fault *vfs.Fault
		d := newDirectRig(t, func(fs vfs.FS) vfs.FS {
			fault = vfs.NewFault(fs)
			return fault
		})
		failed := fault.Count(vfs.OpWrite) + 1 + 2*k
		fault.FailAt(failed, vfs.ErrNoSpace, vfs.OpWrite)
		destageAll(t, d.s)
		if n := fault.Count(vfs.OpWrite); n <= failed {
			t.Fatalf("%d writes, want one that fails, the %dth", n, failed)
		}
		d.check(t, d.s)
		mustClose(t, d.s)
		d.checkBaseOf(t, d.mem)
	}
}

// TestDamageInTheMiddleOfABatch: what was before it may be in the base by then. All
// else reads right, also after a restart, nothing is written again for it, and it is
// over when it is overwritten.
func TestDamageInTheMiddleOfABatch(t *testing.T) {
	counted := &countedIO{}
	d := newDirectRig(t, func(fs vfs.FS) vfs.FS {
		counted.FS = fs
		return counted
	})
	const at = 1<<20 + 512<<10 // of the volume; before it there are several runs
	var hit location
	_ = d.s.index.lookup(at/SectorBytes, at/SectorBytes+1, func(e extent) bool { // never fails
		hit = e.loc
		return false
	})
	name := segmentName(hit.segment())
	flip(t, d.mem, name, hit.fileOffset()+100, 4)
	fails := func(bytes int) {
		t.Helper()
		err := destageUnheld(d.s)
		wantCorrupt(t, err, ErrCorrupt, name)
		failed := sectorsThatFail(t, d.s, d.image, 1<<20, 2<<20)
		if len(failed) != bytes/SectorBytes || failed[0] != at {
			t.Fatalf("%d sectors fail, from %d on, want %d bytes at %d", len(failed), failed[0], bytes, at)
		}
	}
	fails(partBytes) // who appended the record knows its parts
	if d.s.state.Base == d.s.state.Horizon {
		t.Fatal("the batch did not begin")
	}
	counted.direct.reset()
	counted.cached.reset()
	fails(partBytes)
	if n := counted.direct.calls.Load() + counted.cached.calls.Load(); n > 0 {
		t.Fatalf("%d writes to the base, want none while it is damaged", n)
	}
	mustClose(t, d.s)
	d.s = mustOpen(t, d.cfg)
	fails(128 << 10)
	d.write(t, rand.New(rand.NewPCG(5, 5)), at, 128<<10)
	destageAll(t, d.s)
	d.check(t, d.s)
	mustClose(t, d.s)
	d.checkBaseOf(t, d.mem)
}
