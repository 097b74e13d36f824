package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// overwrittenStore has the beginning of its volume in each of several sealed segments, newer
// ones without it behind them, and a budget that lets the former go. newest is what it
// reads as.
func overwrittenStore(t *testing.T, fs vfs.FS, change func(*Config)) (s *Store, newest []byte) {
	t.Helper()
	cfg := Config{FS: fs, Dir: worldDir, SegmentBytes: MinSegmentBytes}
	if change != nil {
		change(&cfg)
	}
	makeParent(t, fs)
	if err := Create(cfg, Spec{testVolume, testVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, cfg)
	for b := byte(1); b <= 8; b++ {
		p, off := bytes.Repeat([]byte{b}, 32<<10), int64(64<<10)
		if b <= 5 {
			newest, off = p, 0
		}
		if _, err := s.Write(p, off); err != nil {
			t.Fatal(err)
		}
		s.appendMu.Lock()
		s.retireActive() // a segment for each
		s.appendMu.Unlock()
	}
	if err := s.supply(); err != nil {
		t.Fatal(err)
	}
	s.SetRetention(Retention{JournalBytes: 3 * MinSegmentBytes})
	return s, newest
}

// A batch that is in the base, and of which the catalog had no room to say so, is begun
// again a segment at a time. What it had written last is not to read as what came before.
func TestDestageWithoutRoomForItsEndReadsRight(t *testing.T) {
	fault := vfs.NewFault(vfs.NewMem())
	s, newest := overwrittenStore(t, fault, nil)
	fault.FailFrom(fault.Count(vfs.OpCommit)+2, vfs.ErrNoSpace, vfs.OpCommit) // the first one moves the horizon
	if err := s.Maintain(t.Context()); !errors.Is(err, ErrFull) {
		t.Fatalf("destage without room in the catalog: %v, want ErrFull", err)
	}
	if got := readAll(t, s, int64(len(newest))); !bytes.Equal(got, newest) {
		t.Errorf("the volume reads as %d, want %d, which was written last", got[0], newest[0])
	}
	fault.Mend()
	s.notInVain()
	if err := s.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, s, int64(len(newest))); !bytes.Equal(got, newest) {
		t.Errorf("with room again the volume reads as %d, want %d", got[0], newest[0])
	}
	mustClose(t, s)
}

// What a batch takes out of the index in memory is not to be looked for among older
// versions that the index has on disk: whoever reads while it ends sees the newest one.
func TestReadsWhileABatchEnds(t *testing.T) {
	fs := &watchedFS{FS: vfs.NewMem()}
	s, newest := overwrittenStore(t, fs, func(cfg *Config) { cfg.youngExtents, cfg.runStep = 1, 1 })
	seen := 0
	fs.afterCommit = func() error {
		if s.index.stack != nil {
			seen++
		}
		got := make([]byte, len(newest))
		if err := s.ReadAt(got, 0); err != nil {
			return err
		}
		if !bytes.Equal(got, newest) {
			return fmt.Errorf("the volume reads as %d, want %d, which was written last", got[0], newest[0])
		}
		return nil
	}
	if err := s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if s.Horizon().Seq == 0 || seen == 0 {
		t.Fatalf("destaged up to %s, an index on disk was there %d times: nothing was tested", s.Horizon(), seen)
	}
	fs.afterCommit = nil
	mustClose(t, s)
}

// watchedFS calls a function behind each commit to a database, whose error is that of the
// commit.
type watchedFS struct {
	vfs.FS
	afterCommit func() error
}

func (w *watchedFS) OpenDB(name string) (kv.DB, error) {
	db, err := w.FS.OpenDB(name)
	return watchedDB{db, w}, err
}

type watchedDB struct {
	kv.DB
	w *watchedFS
}

func (d watchedDB) Update(fn func(kv.Tx) error) error {
	err := d.DB.Update(fn)
	if err == nil && d.w.afterCommit != nil {
		err = d.w.afterCommit()
	}
	return err
}
