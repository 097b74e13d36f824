package journal

import (
	"fmt"
	"math/rand/v2"
	"path"
	"sync/atomic"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// ioCounts are the calls of one kind and their bytes.
type ioCounts struct{ calls, bytes atomic.Int64 }

func (c *ioCounts) add(n int) {
	c.calls.Add(1)
	c.bytes.Add(int64(n))
}

func (c *ioCounts) reset() {
	c.calls.Store(0)
	c.bytes.Store(0)
}

func (c *ioCounts) String() string {
	return fmt.Sprintf("%d KiB by %d calls", c.bytes.Load()>>10, c.calls.Load())
}

// countedIO is a file system that counts what is done with it.
type countedIO struct {
	vfs.FS
	segments             ioCounts // reads
	cached, direct, sums ioCounts // writes of the base
	journal              ioCounts // writes of the journal, but for appends
}

func (c *countedIO) Open(name string) (vfs.File, error)   { return c.file(name)(c.FS.Open(name)) }
func (c *countedIO) Create(name string) (vfs.File, error) { return c.file(name)(c.FS.Create(name)) }

func (c *countedIO) file(name string) func(vfs.File, error) (vfs.File, error) {
	return func(f vfs.File, err error) (vfs.File, error) {
		if err != nil {
			return nil, err
		}
		return &countedIOFile{f, c, path.Base(name)}, nil
	}
}

type countedIOFile struct {
	vfs.File
	of   *countedIO
	name string
}

func (f *countedIOFile) ReadAt(p []byte, off int64) (int, error) {
	if f.name != baseFile && f.name != baseSumsFile {
		f.of.segments.add(len(p))
	}
	return f.File.ReadAt(p, off)
}

func (f *countedIOFile) ReadVecAt(bufs [][]byte, off int64) (int, error) {
	n := 0
	for _, b := range bufs {
		n += len(b)
	}
	f.of.segments.add(n)
	return f.File.ReadVecAt(bufs, off)
}

func (f *countedIOFile) WriteDirectAt(p []byte, off int64) (int, error) {
	f.of.direct.add(len(p))
	return f.File.WriteDirectAt(p, off)
}

func (f *countedIOFile) WriteAt(p []byte, off int64) (int, error) {
	switch f.name {
	case baseFile:
		f.of.cached.add(len(p))
	case baseSumsFile:
		f.of.sums.add(len(p))
	default:
		f.of.journal.add(len(p))
	}
	return f.File.WriteAt(p, off)
}

// TestWhatDestageCosts: what survives is read once, with a header for each record, and
// written once, in long runs past the page cache. docs/performance.md has the figures.
func TestWhatDestageCosts(t *testing.T) {
	const volumeBytes, writtenBytes = 64 << 20, 24 << 20
	for _, tt := range []struct {
		name         string
		length       int64
		within       int64 // of the volume, at random; 0: in a row
		reads        int64 // calls for the segments, at most
		direct, rest int64 // writes of the base: past the cache, through it
	}{
		{"1 MiB in a row", 1 << 20, 0, 30, 24, 0},
		{"256 KiB in a row", 256 << 10, 0, 30, 24, 0},
		{"4 KiB in a row", 4 << 10, 0, 60, 24, 0},
		{"4 KiB, overwritten six times", 4 << 10, 4 << 20, 1100, 6, 0},
		{"4 KiB here and there", 4 << 10, volumeBytes, 5200, 0, 3501},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fs := &countedIO{FS: vfs.NewMem()}
			makeParent(t, fs)
			cfg := Config{FS: fs, Dir: worldDir, SegmentBytes: 16 << 20, CacheBytes: 1}
			if err := Create(cfg, Spec{testVolume, volumeBytes}); err != nil {
				t.Fatal(err)
			}
			s := mustOpen(t, cfg)
			rng, p := rand.New(rand.NewPCG(1, 1)), make([]byte, tt.length)
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			wrote := map[int64]bool{}
			for i := range writtenBytes / tt.length {
				if tt.within > 0 {
					i = rng.Int64N(tt.within / tt.length)
				}
				wrote[i] = true
				if _, err := s.Write(p, i*tt.length); err != nil {
					t.Fatal(err)
				}
			}
			s.appendMu.Lock()
			s.retireActive()
			s.appendMu.Unlock()
			if err := s.sealPending(); err != nil {
				t.Fatal(err)
			}
			for _, c := range []*ioCounts{&fs.segments, &fs.cached, &fs.direct, &fs.sums} {
				c.reset()
			}
			if err := destageUnheld(s); err != nil {
				t.Fatal(err)
			}
			survive := int64(len(wrote)) * tt.length
			t.Logf("for %d KiB in %d records: segments read %v, base written directly %v, through the cache %v, checksums %v",
				survive>>10, len(wrote), &fs.segments, &fs.direct, &fs.cached, &fs.sums)
			if got := fs.direct.bytes.Load() + fs.cached.bytes.Load(); got != survive {
				t.Errorf("%d bytes written to the base, want %d", got, survive)
			}
			if got := fs.sums.bytes.Load(); got != sumOffset(survive) {
				t.Errorf("%d bytes of checksums, want %d", got, sumOffset(survive))
			}
			// Beside records and headers: footers, and a byte for each MiB that is read ahead.
			if got, want := fs.segments.bytes.Load(), survive+int64(len(wrote))*frameHeaderBytes; got < want || got > want+want/50 {
				t.Errorf("%d bytes read of segments, want %d and 2%% at most", got, want)
			}
			if got := fs.segments.calls.Load(); got > tt.reads {
				t.Errorf("%d calls to read segments, want at most %d", got, tt.reads)
			}
			if got := fs.direct.calls.Load(); got != tt.direct {
				t.Errorf("%d direct writes, want %d", got, tt.direct)
			}
			if got := fs.cached.calls.Load(); got != tt.rest {
				t.Errorf("%d writes through the cache, want %d", got, tt.rest)
			}
			mustClose(t, s)
		})
	}
}
