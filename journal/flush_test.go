package journal

import (
	"context"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// countedWriteback is a file system that counts how often writeback is started.
type countedWriteback struct {
	vfs.FS
	started int
}

func (c *countedWriteback) Create(name string) (vfs.File, error) {
	f, err := c.FS.Create(name)
	if err != nil {
		return nil, err
	}
	return &writebackFile{f, c}, nil
}

type writebackFile struct {
	vfs.File
	of *countedWriteback
}

func (f *writebackFile) StartWriteback(off, length int64) {
	f.of.started++
	f.File.StartWriteback(off, length)
}

// TestWritebackIsForThoseWhoFlush: the disk is asked to begin with an append at once while
// each is flushed, and not for those that nobody flushes, behind a flush of one.
func TestWritebackIsForThoseWhoFlush(t *testing.T) {
	mem := vfs.NewMem()
	fs := &countedWriteback{FS: mem}
	makeParent(t, mem)
	cfg := Config{FS: fs, Dir: worldDir}
	if err := Create(cfg, Spec{testVolume, 1 << 20}); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, cfg)
	write := func(flush bool) (started int) {
		t.Helper()
		before := fs.started
		if _, err := s.Write(make([]byte, 4096), 0); err != nil {
			t.Fatal(err)
		}
		if flush {
			if err := s.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		return fs.started - before
	}
	write(true)
	for range 10 {
		if write(true) != 1 {
			t.Fatal("no writeback for an append that will be flushed")
		}
	}
	first, second := write(false), write(false)
	for range 10 {
		if write(false) != 0 {
			t.Fatalf("writeback for appends that nobody flushes, after %d and %d for the first two", first, second)
		}
	}
	mustClose(t, s)
}

// A flush that a Close overtakes has lost nothing: the close has synced what it was about
// to, and no device is to be given up for it.
func TestFlushBehindAClose(t *testing.T) {
	for name, fs := range map[string]vfs.FS{"os": vfs.OS{}, "mem": vfs.NewMem()} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t)
			if cfg.FS = fs; name == "mem" {
				cfg.Dir = "v"
			}
			s := createAndOpen(t, cfg)
			if _, err := s.Write(make([]byte, SectorBytes), 0); err != nil {
				t.Fatal(err)
			}
			g := s.active // what a flush is about to sync
			mustClose(t, s)
			if err := s.syncSegment(g); !errors.Is(err, ErrClosed) || errors.Is(err, ErrTailLost) {
				t.Errorf("sync behind the close: %v, want ErrClosed", err)
			}
			select {
			case <-s.TailLost():
				t.Error("records count as lost")
			default:
			}
			if err := s.Err(); err != nil {
				t.Errorf("the store is %v", err)
			}
		})
	}
}
