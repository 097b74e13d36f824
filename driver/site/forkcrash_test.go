package site_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// forkLife is a fork from its making to its end, and how far it came.
type forkLife struct {
	made, leaving, left bool
	flushed, written    byte
}

func (l *forkLife) live(s *opened) error {
	ctx := context.Background()
	if _, err := s.CreateFork(ctx, site.NewFork{Name: "x", Group: "shop", At: "pin:before"}); err != nil {
		return err
	}
	l.made = true
	for value := byte(7); value < 10; value++ {
		l.written = value
		if err := s.fillFork("x", value, value == 8); err != nil {
			return err
		}
		if value == 8 {
			l.flushed = value
		}
	}
	for _, id := range members {
		if err := s.fork("x", id).Flush(ctx); err != nil {
			return err
		}
	}
	l.flushed = 9
	l.leaving = true
	if err := s.DiscardFork(ctx, "x"); err != nil {
		return err
	}
	l.left = true
	return nil
}

// TestCrashAnywhereInAForksLife cuts the power at every change of the disk: the
// members are what they were, and the fork is there with all that was flushed, or
// gone as a whole.
func TestCrashAnywhereInAForksLife(t *testing.T) {
	crashed, open := 0, 0
	for k := int64(1); ; k++ {
		mem := vfs.NewMem()
		fault := vfs.NewFault(mem)
		s := prepared(t, fault)
		chance := rand.New(rand.NewPCG(uint64(k), 16))
		fault.CrashTornAt(fault.Count()+k, chance)
		var life forkLife
		err := life.live(s)
		_ = s.Close() // of no use once the disk is gone
		if !fault.Crashed() {
			if err != nil {
				t.Fatalf("without a crash: %v", err)
			}
			break
		}
		crashed++
		for _, disk := range []*vfs.Mem{mem.KillClone(), mem.Crash(chance)} {
			after := mustOpen(t, disk)
			after.expect(t, 2)
			switch f := after.theFork("x"); {
			case f.State == site.ForkOpen && f.Err == nil && !life.left:
				open++
				allowed := []byte{1, 7, 8, 9}
				allowed = allowed[bytes.IndexByte(allowed, max(1, life.flushed)):]
				after.expectFork(t, "x", allowed...)
			case f.Name == "" && (!life.made || life.leaving):
				after.expectNothingOf(t, disk, "x")
			default:
				t.Errorf("%+v after %+v", f, life)
			}
			if after.theFork("x").Name != "" {
				if err := after.DiscardFork(context.Background(), "x"); err != nil {
					t.Error(err)
				}
			}
			after.expectNothingOf(t, disk, "x")
			var again forkLife
			if err := again.live(after); err != nil {
				t.Errorf("made again: %v", err)
			}
			after.expect(t, 2)
			mustClose(t, after)
			if t.Failed() {
				t.Fatalf("k=%d: %+v; the last operations were:\n%s\n%s", k, life, fault.Trace(), log.String())
			}
		}
	}
	if crashed < 50 || open < 10 {
		t.Fatalf("only %d places to crash at, and %d forks after it", crashed, open)
	}
}
