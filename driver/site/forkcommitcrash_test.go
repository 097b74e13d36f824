package site_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestCrashAnywhereInACommit cuts the power, and in another branch kills the process,
// at every change of the disk while a fork becomes production, and once more while the
// restart completes that. Production is what it was and the fork is there, or all of the
// fork is production and it is gone.
func TestCrashAnywhereInACommit(t *testing.T) {
	crashed, before, completed := 0, 0, 0
	for k := int64(1); ; k++ {
		mem := vfs.NewMem()
		fault := vfs.NewFault(mem)
		s := spread(t, fault)
		chance := rand.New(rand.NewPCG(uint64(k), 18))
		fault.CrashTornAt(fault.Count()+k, chance)
		_, err := s.CommitFork(context.Background(), "shop", "x", false)
		_ = s.Close() // of no use once the disk is gone
		if !fault.Crashed() {
			if err != nil {
				t.Fatalf("without a crash: %v", err)
			}
			break
		}
		crashed++
		for _, disk := range []*vfs.Mem{mem.KillClone(), mem.Crash(chance)} {
			twice := disk.KillClone()
			again := vfs.NewFault(twice)
			again.CrashTornAt(1+chance.Int64N(40), chance)
			if s, err := openSite(again); err == nil {
				_ = s.Close()
			}
			for _, disk := range []*vfs.Mem{disk, twice.Crash(chance)} {
				if survivesCommit(t, disk, err == nil) {
					completed++
				} else {
					before++
				}
				if t.Failed() {
					t.Fatalf("k=%d; the last operations were:\n%s\n%s", k, fault.Trace(), log.String())
				}
			}
		}
	}
	if crashed < 20 || before < 10 || completed < 10 {
		t.Fatalf("only %d places to crash at, %d before and %d after the fork was production", crashed, before, completed)
	}
}

// spread is a forked site whose fork has also content and a discard elsewhere, which
// production has written to since.
func spread(t *testing.T, fs vfs.FS) *opened {
	t.Helper()
	ctx := context.Background()
	s := forked(t, fs)
	for _, id := range members {
		live, dev := s.exports.device(id), s.fork("x", id)
		for _, err := range []error{
			live.WriteAt(ctx, bytes.Repeat([]byte{2}, 1<<20), 1<<20, true),
			dev.WriteAt(ctx, bytes.Repeat([]byte{7}, 1<<19), 1<<20, false),
			dev.WriteAt(ctx, bytes.Repeat([]byte{7}, 1<<19), 4<<20, false),
			dev.Discard(ctx, 4<<20, 4096),
			dev.Flush(ctx),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

// expectSpread compares the members with production as it was, which held 2, or with
// what the fork holds.
func (o *opened) expectSpread(t *testing.T, fork bool) {
	t.Helper()
	wanted := map[int64]byte{0: 2, 1 << 20: 2, 2<<20 - 512: 2, 4 << 20: 0, 4<<20 + 1<<19 - 512: 0}
	if fork {
		wanted = map[int64]byte{0: 7, 1 << 20: 7, 2<<20 - 512: 0, 4 << 20: 0, 4<<20 + 1<<19 - 512: 7}
	}
	for _, id := range members {
		for off, want := range wanted {
			if got := o.readAt(t, id, off); got != want {
				t.Errorf("volume %s holds %d at %d, want %d", id, got, off, want)
			}
		}
	}
}

// survivesCommit opens a site after a crash in a commit, and reports whether the fork
// is production.
func survivesCommit(t *testing.T, disk *vfs.Mem, acknowledged bool) (completed bool) {
	t.Helper()
	ctx := context.Background()
	s := mustOpen(t, disk)
	st, err := s.Groups().State("shop")
	if err != nil || st.Pending != nil {
		t.Fatalf("%+v, %v", st.Pending, err)
	}
	f := s.theFork("x")
	if completed = st.Rewind != nil; completed {
		s.expectSpread(t, true)
		if f.Name != "" {
			t.Errorf("the fork is still there: %+v", f)
		}
		s.expectNothingOf(t, disk, "x")
		if p := s.newest(t); p.Checkpoint != st.Rewind.To.Checkpoint || len(p.Members) != 2 {
			t.Errorf("newest point is %+v, want that of %+v", p, st.Rewind.To)
		}
	} else {
		s.expectSpread(t, false)
		if f.State != site.ForkOpen || acknowledged {
			t.Errorf("fork %+v, though it is not production", f)
		}
		if _, err := s.CommitFork(ctx, "shop", "x", false); err != nil {
			t.Error(err)
		}
		s.expectSpread(t, true)
	}
	if err := s.fill(9); err != nil {
		t.Error(err)
	}
	if _, err := s.Groups().UndoRewind(ctx, "shop", false); err != nil {
		t.Error(err)
	}
	s.expectSpread(t, false)
	if _, err := s.Groups().UndoRewind(ctx, "shop", false); !errors.Is(err, group.ErrNoRewind) {
		t.Errorf("undone twice: %v", err)
	}
	mustClose(t, s)
	return completed
}
