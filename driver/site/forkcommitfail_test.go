package site_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// TestAFailedCommitIsReverted: the fork is lost between the moment at which the commit
// was written down and the restart that has to complete it.
func TestAFailedCommitIsReverted(t *testing.T) {
	ctx := context.Background()
	reverted := 0
	for k := int64(1); ; k++ {
		mem := vfs.NewMem()
		fault := vfs.NewFault(mem)
		s := forked(t, fault)
		if err := s.fork("x", volumeB).WriteAt(ctx, bytes.Repeat([]byte{8}, 64<<10), 1<<20, true); err != nil {
			t.Fatal(err)
		}
		fault.CrashAt(fault.Count() + k)
		_, err := s.CommitFork(ctx, "shop", "x", false)
		_ = s.Close() // of no use once the disk is gone
		if !fault.Crashed() {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		disk := mem.KillClone()
		if _, err := disk.ReadDir("/root/forks/x/" + volumeB.String() + "/journal"); err != nil {
			continue // it was over
		}
		damage(t, disk, "/root/forks/x/"+volumeB.String()+"/journal", bytes.Repeat([]byte{8}, 4<<10))
		after := mustOpen(t, disk)
		st, err := after.Groups().State("shop")
		if err != nil || st.Pending != nil {
			t.Fatalf("k=%d: %+v, %v", k, st, err)
		}
		if f := after.theFork("x"); f.Name == "" || f.State == site.ForkDiscarding {
			after.expect(t, 7)
		} else {
			after.expect(t, 2)
			if st.Rewind != nil || f.State != site.ForkOpen {
				t.Errorf("k=%d: %+v, fork %+v", k, st.Rewind, f)
			}
			if !errors.Is(f.Err, journal.ErrCorrupt) { // it does not hide what it has lost
				after.expectFork(t, "x", 7)
			}
			if strings.Contains(log.String(), "was given up") {
				reverted++
			}
			if err := errors.Join(after.fill(4), after.DiscardFork(ctx, "x")); err != nil {
				t.Error(err)
			}
			after.expect(t, 4)
		}
		mustClose(t, after)
		for _, id := range members {
			if pins := rewindPins(t, disk, id); len(pins) != 0 && st.Rewind == nil {
				t.Errorf("k=%d: volume %s keeps %v", k, id, pins)
			}
		}
		if t.Failed() {
			t.Fatalf("k=%d: %s", k, log.String())
		}
	}
	if reverted < 5 {
		t.Errorf("%d commits were reverted", reverted)
	}
}

// pendingCommit is a disk on which a commit was cut off after it was written down, and
// on which volume B cannot be opened, so that the next start does not complete it. repair
// makes it openable.
func pendingCommit(t *testing.T) (s *opened, fs *vfs.Mem, repair func()) {
	t.Helper()
	base := "/root/volumes/" + volumeB.String() + "/store-1/base.img"
	for k := int64(1); k < 1000; k++ {
		mem := vfs.NewMem()
		fault := vfs.NewFault(mem)
		s := forked(t, fault)
		fault.CrashAt(fault.Count() + k)
		_, err := s.CommitFork(context.Background(), "shop", "x", false)
		_ = s.Close() // of no use once the disk is gone
		if err == nil {
			break
		}
		disk := mem.KillClone()
		if err := disk.Rename(base, base+".away"); err != nil {
			t.Fatal(err)
		}
		after := mustOpen(t, disk)
		if st, err := after.Groups().State("shop"); err == nil && st.Pending != nil {
			return after, disk, func() {
				t.Helper()
				if err := disk.Rename(base+".away", base); err != nil {
					t.Fatal(err)
				}
			}
		}
		mustClose(t, after)
	}
	t.Fatal("no crash left a commit to be completed")
	return nil, nil, nil
}

// TestACommitWaitsForItsMembers: it is completed when the member that did not open is
// there again, and nobody ends the fork meanwhile.
func TestACommitWaitsForItsMembers(t *testing.T) {
	ctx := context.Background()
	s, fs, repair := pendingCommit(t)
	s.TendForks(ctx)
	if f := s.theFork("x"); f.State != site.ForkCommitting || f.Open {
		t.Errorf("%+v", f)
	}
	if err := s.DiscardFork(ctx, "x"); !errors.Is(err, groups.ErrInUse) {
		t.Errorf("discard: %v, want ErrInUse", err)
	}
	if _, err := s.CommitFork(ctx, "shop", "x", false); err == nil {
		t.Error("committed without a member")
	}
	if err := s.exports.device(volumeA).WriteAt(ctx, make([]byte, 512), 0, true); err == nil {
		t.Error("a member takes writes in the middle of a commit")
	}
	repair()
	if _, err := s.ReopenVolume(ctx, volumeB); err != nil {
		t.Fatal(err)
	}
	s.expect(t, 7)
	s.expectNothingOf(t, fs, "x")
	if err := s.fill(8); err != nil {
		t.Error(err)
	}
	mustClose(t, s)
}

// TestADemotedSiteGivesUpItsCommit: what it has not completed is another site's to
// decide, and the fork is there as before.
func TestADemotedSiteGivesUpItsCommit(t *testing.T) {
	ctx := context.Background()
	s, fs, repair := pendingCommit(t)
	demoted(t, s)
	if f := s.theFork("x"); f.State != site.ForkOpen {
		t.Errorf("%+v", f)
	}
	repair()
	if _, err := s.ReopenVolume(ctx, volumeB); err != nil {
		t.Fatal(err)
	}
	s.TendForks(ctx)
	s.expectFork(t, "x", 7)
	mustClose(t, s)
	s = mustOpen(t, fs)
	s.expectFork(t, "x", 7)
	if err := s.DiscardFork(ctx, "x"); err != nil {
		t.Error(err)
	}
	mustClose(t, s)
	for _, id := range members {
		if pins := rewindPins(t, fs, id); len(pins) != 0 {
			t.Errorf("volume %s keeps %v", id, pins)
		}
	}
}
