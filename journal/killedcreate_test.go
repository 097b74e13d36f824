package journal

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestAStoreThatAKillLeftSurvivesAPowerLoss: whoever opens it cannot know which names the
// process that made it had not made durable yet, and what is flushed relies on all of them.
func TestAStoreThatAKillLeftSurvivesAPowerLoss(t *testing.T) {
	for name, journalDir := range map[string]string{"with the base": "", "of its own": worldJournalDir} {
		t.Run(name, func(t *testing.T) { killCreating(t, journalDir) })
	}
}

func killCreating(t *testing.T, journalDir string) {
	sector, opened := bytes.Repeat([]byte{7}, SectorBytes), 0
	for k := int64(1); ; k++ {
		mem := vfs.NewMem()
		makeParent(t, mem)
		fault := vfs.NewFault(mem)
		fault.CrashTornAt(k, rand.New(rand.NewPCG(uint64(k), 6)))
		made := Create(Config{FS: fault, Dir: worldDir, JournalDir: journalDir}, Spec{testVolume, worldVolumeBytes})
		cfg := Config{FS: mem.KillClone(), Dir: worldDir, JournalDir: journalDir}
		s, err := Open(cfg)
		if errors.Is(err, ErrNotStore) && made != nil {
			continue
		}
		if err != nil {
			t.Fatalf("operation %d: %v", k, err)
		}
		opened++
		if _, err := s.Write(sector, 0); err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		left := cfg
		left.FS = cfg.FS.(*vfs.Mem).CrashWith(nil, vfs.CrashOptions{LoseAll: true})
		_ = s.Close() // of no use without its disk
		if s, err = Open(left); err != nil {
			t.Fatalf("operation %d: after the power loss: %v", k, err)
		}
		if !bytes.Equal(readAll(t, s, SectorBytes), sector) {
			t.Errorf("operation %d: what was flushed is gone", k)
		}
		mustClose(t, s)
		if made == nil {
			break
		}
	}
	if opened < 2 {
		t.Error("no kill left a store")
	}
}
