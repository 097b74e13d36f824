package journal

import (
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// Whoever relies on what was appended is told when a sync may have taken some of it
// away, and only then; also by an Open that finds it out, and when something else has
// failed first.
func TestTailLost(t *testing.T) {
	disk := errors.New("the disk fails")
	open := func(t *testing.T) (*vfs.Mem, *vfs.Fault, *Store) {
		mem := vfs.NewMem()
		fault := vfs.NewFault(mem)
		cfg := Config{FS: fault, Dir: "/store", SegmentBytes: MinSegmentBytes}
		if err := Create(cfg, Spec{Volume: VolumeID{1}, SizeBytes: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		s, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() }) // it has failed
		if _, err := s.Write(make([]byte, SectorBytes), 0); err != nil {
			t.Fatal(err)
		}
		return mem, fault, s
	}
	t.Run("a flush fails", func(t *testing.T) {
		_, fault, s := open(t)
		fault.FailAt(fault.Count(vfs.OpSync)+1, disk, vfs.OpSync)
		if err := s.Flush(t.Context()); !errors.Is(err, ErrPoisoned) || !errors.Is(err, ErrTailLost) || !errors.Is(err, disk) {
			t.Errorf("flush: %v, want ErrPoisoned and ErrTailLost", err)
		}
	})
	t.Run("a write fails", func(t *testing.T) {
		_, fault, s := open(t)
		fault.FailAt(fault.Count(vfs.OpWriteVec)+1, disk, vfs.OpWriteVec)
		if _, err := s.Write(make([]byte, SectorBytes), 0); !errors.Is(err, ErrPoisoned) || errors.Is(err, ErrTailLost) {
			t.Errorf("write: %v, want ErrPoisoned and not ErrTailLost", err)
		}
		// A sync of the journal that was under way.
		if err := s.poison(tailFile{failingFile{err: disk}}.Sync()); !errors.Is(err, ErrPoisoned) || !errors.Is(s.Err(), ErrTailLost) {
			t.Errorf("a sync beside it: %v, want ErrPoisoned and ErrTailLost", err)
		}
	})
	t.Run("an open fails", func(t *testing.T) {
		mem, _, _ := open(t)
		fault := vfs.NewFault(mem.KillClone())
		fault.FailAt(1, disk, vfs.OpSync)
		cfg := Config{FS: fault, Dir: "/store", SegmentBytes: MinSegmentBytes}
		if _, err := Open(cfg); !errors.Is(err, ErrTailLost) || !errors.Is(err, disk) {
			t.Errorf("open: %v, want ErrTailLost", err)
		}
		s, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

type failingFile struct {
	vfs.File
	err error
}

func (f failingFile) Sync() error { return f.err }
