package journal

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// zeroing is a file system that tells of the syncs of files that were made on it, and of what was
// written to the last of these.
type zeroing struct {
	vfs.FS
	synced func() // of a file that was written to

	mu      sync.Mutex
	written int64
}

type zeroingFile struct {
	vfs.File
	fs *zeroing
}

func (z *zeroing) Create(name string) (vfs.File, error) {
	f, err := z.FS.Create(name)
	z.mu.Lock()
	defer z.mu.Unlock()
	z.written = 0
	return &zeroingFile{f, z}, err
}

func (f *zeroingFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.fs.written += int64(n)
	return n, err
}

func (f *zeroingFile) Sync() error {
	f.fs.mu.Lock()
	synced := f.fs.synced
	if f.fs.written != zeroChunkBytes {
		synced = nil
	}
	f.fs.mu.Unlock()
	if synced != nil {
		synced()
	}
	return f.File.Sync()
}

// Who closes a store does not wait until a new file is filled with zeroes: neither for Run, which
// ends first, nor, where that goes on, for the file.
func TestClosingEndsTheZeroing(t *testing.T) {
	const patience = 5 * time.Second
	for _, how := range []string{"Run is to end", "the store is to be closed"} {
		t.Run(how, func(t *testing.T) {
			fs := &zeroing{FS: vfs.NewMem()}
			cfg := Config{FS: fs, Dir: worldDir, SegmentBytes: 8 * zeroChunkBytes}
			if err := Create(cfg, Spec{testVolume, worldVolumeBytes}); err != nil {
				t.Fatal(err)
			}
			s := mustOpen(t, cfg)
			if _, err := s.Write(make([]byte, SectorBytes), 0); err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var closing sync.WaitGroup
			asked := make(chan struct{})
			fs.mu.Lock()
			fs.synced = func() { // after its first part
				told := func() bool { return s.hurried.Load() > 0 }
				if how == "Run is to end" {
					stop()
				} else {
					closing.Go(func() { mustClose(t, s) })
					told = s.closing.Load
				}
				for until := time.Now().Add(patience); !told() && time.Now().Before(until); {
					runtime.Gosched()
				}
				close(asked)
			}
			fs.mu.Unlock()
			var running sync.WaitGroup
			running.Go(func() {
				if err := s.Run(ctx); err != nil {
					t.Error(err)
				}
			})
			<-asked
			if how != "Run is to end" {
				closing.Wait()
				stop()
			}
			running.Wait()
			if how == "Run is to end" {
				if n := s.hurried.Load(); n != 0 {
					t.Errorf("%d hurry when Run has ended", n)
				}
				mustClose(t, s)
			}
			fs.mu.Lock()
			defer fs.mu.Unlock()
			if fs.written >= 3*zeroChunkBytes { // the one that was being written ends
				t.Errorf("%d bytes were written to the new file, of which %d are a part", fs.written, zeroChunkBytes)
			}
		})
	}
}
