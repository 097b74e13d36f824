package journal

import (
	"bytes"
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
		<-s.TailLost()
	})
	t.Run("a write fails", func(t *testing.T) {
		_, fault, s := open(t)
		fault.FailAt(fault.Count(vfs.OpWriteVec)+1, disk, vfs.OpWriteVec)
		if _, err := s.Write(make([]byte, SectorBytes), 0); !errors.Is(err, ErrPoisoned) || errors.Is(err, ErrTailLost) {
			t.Errorf("write: %v, want ErrPoisoned and not ErrTailLost", err)
		}
		select {
		case <-s.TailLost():
			t.Error("a write that failed has lost the tail")
		default:
		}
		// A sync of the journal that was under way.
		if err := s.poison(tailFile{failingFile{err: disk}}.Sync()); !errors.Is(err, ErrPoisoned) || !errors.Is(s.Err(), ErrTailLost) {
			t.Errorf("a sync beside it: %v, want ErrPoisoned and ErrTailLost", err)
		}
		<-s.TailLost()
	})
	// Nothing is synced any more once something has failed, but by Close, which finds out.
	for name, lost := range map[string]bool{"a write fails, and what was appended is there": false, "a write fails, and with it the file system": true} {
		t.Run(name, func(t *testing.T) {
			mem, fault, s := open(t)
			fault.FailAfter(1, disk, vfs.OpWriteVec)
			if lost {
				fault.FailFrom(fault.Count(vfs.OpSync)+1, disk, vfs.OpSync)
			}
			if _, err := s.Write(bytes.Repeat([]byte("y"), SectorBytes), SectorBytes); !errors.Is(err, ErrPoisoned) {
				t.Errorf("write: %v, want ErrPoisoned", err)
			}
			durable := s.Durable()
			_ = s.Close() // it has failed
			if got := errors.Is(s.Err(), ErrTailLost); got != lost {
				t.Errorf("closed, the store is %v; the tail is lost: %t, want %t", s.Err(), got, lost)
			}
			if now := s.Durable(); now != durable {
				t.Errorf("a store that has failed makes %v durable, after %v", now, durable)
			}
			if lost {
				return
			}
			r, err := Open(Config{FS: mem.CrashWith(nil, vfs.CrashOptions{LoseAll: true}), Dir: "/store", SegmentBytes: MinSegmentBytes})
			if err != nil {
				t.Fatal(err)
			}
			if tip := r.Tip(); tip.Seq != 1 {
				t.Errorf("after a crash the tip is %v, want what was appended before the write that failed", tip)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	// A lease that is lost refuses what nobody has tried: the system has it all still, and
	// this machine's next Open finds it.
	t.Run("a flush is refused", func(t *testing.T) {
		mem := vfs.NewMem()
		var refused error
		cfg := Config{FS: vfs.Gated{FS: mem, Pass: func() error { return refused }}, Dir: "/store", SegmentBytes: MinSegmentBytes}
		if err := Create(cfg, Spec{Volume: VolumeID{1}, SizeBytes: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		s, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Repeat([]byte("x"), SectorBytes)
		if _, err := s.Write(want, 0); err != nil {
			t.Fatal(err)
		}
		refused = errors.New("the lease is lost")
		if err := s.Flush(t.Context()); !errors.Is(err, ErrPoisoned) || !errors.Is(err, refused) || errors.Is(err, ErrTailLost) {
			t.Errorf("flush: %v, want ErrPoisoned and not ErrTailLost", err)
		}
		_ = s.Close() // it has failed
		cfg.FS = mem
		if s, err = Open(cfg); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, SectorBytes)
		if err := errors.Join(s.ReadAt(got, 0), s.Close()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the next Open reads %.8q, %v, want what was written", got, err)
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
