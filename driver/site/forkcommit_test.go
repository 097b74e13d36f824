package site_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// forked is a prepared site with a fork x of the pinned point, in which the members
// hold 7.
func forked(t *testing.T, fs vfs.FS) *opened {
	t.Helper()
	s := prepared(t, fs)
	s.makeFork(t, "x", "pin:before")
	if err := s.fillFork("x", 7, true); err != nil {
		t.Fatal(err)
	}
	return s
}

// readAt returns the first byte of a sector of a member.
func (o *opened) readAt(t *testing.T, id journal.VolumeID, off int64) byte {
	t.Helper()
	p := make([]byte, 512)
	if err := o.exports.device(id).ReadAt(context.Background(), p, off); err != nil {
		t.Fatal(err)
	}
	return p[0]
}

// newest is the newest recovery point of the group.
func (o *opened) newest(t *testing.T) group.Point {
	t.Helper()
	p, err := o.Groups().Select(context.Background(), "shop", "latest")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestACommittedForkIsProduction(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	live := s.exports.device(volumeA)
	// Before the point: at 1 MiB 1; since: 2 there, and at 2 MiB.
	if err := live.WriteAt(ctx, bytes.Repeat([]byte{1}, 512), 1<<20, true); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Groups().TakePoint(ctx, "shop", "later"); err != nil {
		t.Fatal(err)
	}
	s.makeFork(t, "x", "pin:later")
	for _, off := range []int64{1 << 20, 2 << 20} {
		if err := live.WriteAt(ctx, bytes.Repeat([]byte{2}, 512), off, true); err != nil {
			t.Fatal(err)
		}
	}
	dev := s.fork("x", volumeA)
	if err := errors.Join(s.fillFork("x", 7, false), dev.Discard(ctx, 1<<20, 512), dev.WriteAt(ctx, bytes.Repeat([]byte{8}, 3<<20), 4<<20, false)); err != nil {
		t.Fatal(err)
	}

	plan, err := s.CommitFork(ctx, "shop", "x", true)
	if err != nil || plan.PayloadBytes != 3<<20+2*512 || plan.JournalBytes <= plan.PayloadBytes {
		t.Fatalf("dry run: %+v, %v", plan, err)
	}
	s.expect(t, 2)
	s.expectFork(t, "x", 7)
	done, err := s.CommitFork(ctx, "shop", "x", false)
	if err != nil {
		t.Fatal(err)
	}
	check := func(s *opened) {
		t.Helper()
		s.expect(t, 7)
		for off, want := range map[int64]byte{1 << 20: 0, 2 << 20: 0, 4 << 20: 8, 7<<20 - 512: 8} {
			if got := s.readAt(t, volumeA, off); got != want {
				t.Errorf("at %d there is %d, want %d", off, got, want)
			}
		}
		if f := s.theFork("x"); f.Name != "" {
			t.Errorf("the fork is still there: %+v", f)
		}
		s.expectNothingOf(t, fs, "x")
	}
	check(s)
	if p := s.newest(t); p.Checkpoint != done.Rewind.To.Checkpoint || len(p.Members) != 2 || !p.Time.Equal(done.Rewind.To.Time) {
		t.Errorf("newest point is %+v, want that of %+v", p, done.Rewind)
	}
	mustClose(t, s)
	s = mustOpen(t, fs)
	check(s)
	if st, err := s.Groups().State("shop"); err != nil || st.Rewind == nil || st.Rewind.Fork != "x" {
		t.Errorf("%+v, %v: want a way back", st.Rewind, err)
	}
	if err := s.fill(9); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Groups().UndoRewind(ctx, "shop", false); err != nil {
		t.Fatal(err)
	}
	s.expect(t, 2)
	if got := s.readAt(t, volumeA, 2<<20); got != 2 {
		t.Errorf("undone, there is %d, want 2", got)
	}
	// The numbers of checkpoints rise over all of that.
	if p, _, err := s.Groups().TakePoint(ctx, "shop", ""); err != nil || p.Checkpoint <= done.Rewind.To.Checkpoint {
		t.Errorf("checkpoint %d, %v: want more than %d", p.Checkpoint, err, done.Rewind.To.Checkpoint)
	}
	// And again, for good.
	s.makeFork(t, "x", "pin:before")
	if err := s.fillFork("x", 5, false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitFork(ctx, "shop", "x", false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Groups().CommitRewind(ctx, "shop", false); err != nil {
		t.Fatal(err)
	}
	s.expect(t, 5)
	mustClose(t, s)
	for _, id := range members {
		if pins := rewindPins(t, fs, id); len(pins) != 0 {
			t.Errorf("volume %s keeps %v", id, pins)
		}
	}
}

func TestAForkThatCannotBeCommitted(t *testing.T) {
	ctx := context.Background()
	for name, tt := range map[string]struct {
		prepare func(t *testing.T, s *opened, fs *vfs.Mem)
		fork    string
		want    error
		says    string
	}{
		"unknown": {fork: "y", want: site.ErrNoFork, says: `"y"`},
		"rewind": {want: group.ErrRewindOpen, says: "undo or commit", prepare: func(t *testing.T, s *opened, _ *vfs.Mem) {
			_, _, err := s.Groups().TakePoint(ctx, "shop", "")
			if err == nil {
				_, err = s.Groups().StartRewind(ctx, "shop", "latest", false)
			}
			if err != nil {
				t.Fatal(err)
			}
		}},
		"in use": {want: groups.ErrInUse, says: "2 connections", prepare: func(_ *testing.T, s *opened, _ *vfs.Mem) {
			s.exports.clients.Store(site.ForkExport("x", volumeB), 2)
		}},
		"no room": {want: journal.ErrFull, says: "bytes are needed", prepare: func(t *testing.T, _ *opened, fs *vfs.Mem) {
			total, free, err := fs.Space("/root")
			if err != nil {
				t.Fatal(err)
			}
			fs.SetCapacity((total - free) * 8 / 7) // the reserve, and nothing above it
		}},
		"replica": {want: group.ErrRole, says: "fail over", prepare: func(t *testing.T, s *opened, _ *vfs.Mem) { demoted(t, s) }},
		"a member has left": {want: site.ErrForkClosed, says: "not any more", prepare: func(t *testing.T, s *opened, _ *vfs.Mem) {
			if err := s.Groups().Leave(ctx, "shop", volumeB, false); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			s := forked(t, fs)
			if tt.prepare != nil {
				tt.prepare(t, s, fs)
			}
			if tt.fork == "" {
				tt.fork = "x"
			}
			for _, dryRun := range []bool{true, false} {
				if _, err := s.CommitFork(ctx, "shop", tt.fork, dryRun); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("dry run %t: %v, want %v that says %q", dryRun, err, tt.want, tt.says)
				}
			}
			s.expect(t, 2)
			s.expectFork(t, "x", 7)
			if f := s.theFork("x"); f.State != site.ForkOpen || !f.Open {
				t.Errorf("%+v", f)
			}
			mustClose(t, s)
		})
	}
}

func TestAForkThatWasGivenUpIsNotCommitted(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := forked(t, fs)
	total, free, err := fs.Space("/root")
	if err != nil {
		t.Fatal(err)
	}
	fs.SetCapacity((total - free) * 21 / 20) // less than the reserve
	s.TendForks(ctx)
	if _, err := s.CommitFork(ctx, "shop", "x", false); !errors.Is(err, site.ErrForkClosed) || !strings.Contains(err.Error(), "given-up") {
		t.Errorf("%v, want ErrForkClosed", err)
	}
	s.expect(t, 2)
	mustClose(t, s)
}

// TestADamagedForkIsNotCommitted: what it holds is read before anything happens.
func TestADamagedForkIsNotCommitted(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := forked(t, fs)
	dev := s.fork("x", volumeB)
	if err := dev.WriteAt(ctx, bytes.Repeat([]byte{8}, 64<<10), 1<<20, true); err != nil {
		t.Fatal(err)
	}
	damage(t, fs, "/root/forks/x/"+volumeB.String()+"/journal", bytes.Repeat([]byte{8}, 4<<10))
	before := s.newest(t)
	_, err := s.CommitFork(ctx, "shop", "x", false)
	if !errors.Is(err, journal.ErrCorrupt) || errors.Is(err, group.ErrReverted) {
		t.Errorf("%v, want ErrCorrupt, and nothing begun", err)
	}
	s.expect(t, 2)
	s.expectFork(t, "x", 7)
	if after := s.newest(t); after.Checkpoint != before.Checkpoint {
		t.Errorf("newest point is %d, was %d", after.Checkpoint, before.Checkpoint)
	}
	if err := s.DiscardFork(ctx, "x"); err != nil {
		t.Error(err)
	}
	mustClose(t, s)
}

// damage flips bytes in the first place below a directory that holds a pattern.
func damage(t *testing.T, fs *vfs.Mem, dir string, pattern []byte) {
	t.Helper()
	names, err := fs.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		f, err := fs.OpenReadOnly(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		size, err := f.Size()
		content := make([]byte, size)
		if err == nil {
			_, err = f.ReadAt(content, 0)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(content, pattern); at >= 0 {
			if err := fs.Corrupt(dir+"/"+name, int64(at), 16); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("nothing in %s of %q has the pattern", dir, names)
}

// TestAForkWithAMemberThatJoinedLaterIsCommitted: it stays as it is, is part of the new
// point, and undo brings it back as well. One that has grown keeps its size.
func TestAForkWithAMemberThatJoinedLaterIsCommitted(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := forked(t, fs)
	late := journal.VolumeID{3}
	if err := s.create(late, nil); err != nil {
		t.Fatal(err)
	}
	write := func(id journal.VolumeID, off int64, value byte) {
		t.Helper()
		if err := s.exports.device(id).WriteAt(ctx, bytes.Repeat([]byte{value}, 512), off, true); err != nil {
			t.Fatal(err)
		}
	}
	write(late, 0, 3)
	if err := s.ExpandVolume(ctx, volumeA, 2*volumeBytes); err != nil {
		t.Fatal(err)
	}
	write(volumeA, volumeBytes, 4)
	done, err := s.CommitFork(ctx, "shop", "x", false)
	if err != nil {
		t.Fatal(err)
	}
	s.expect(t, 7)
	if a, l := s.readAt(t, volumeA, volumeBytes), s.readAt(t, late, 0); a != 0 || l != 3 {
		t.Errorf("behind the old size there is %d, want 0; the late member holds %d, want 3", a, l)
	}
	if size := s.exports.device(volumeA).SizeBytes(); size != 2*volumeBytes {
		t.Errorf("volume A has %d bytes", size)
	}
	if p := s.newest(t); p.Checkpoint != done.Rewind.To.Checkpoint || len(p.Members) != 3 {
		t.Errorf("newest point is %+v", p)
	}
	mustClose(t, s)
	if pins := rewindPins(t, fs, late); len(pins) != 1 {
		t.Errorf("the way back of the late member is kept by %v", pins)
	}
	s = mustOpen(t, fs)
	write(late, 0, 5)
	if _, err := s.Groups().UndoRewind(ctx, "shop", false); err != nil {
		t.Fatal(err)
	}
	s.expect(t, 2)
	if a, l := s.readAt(t, volumeA, volumeBytes), s.readAt(t, late, 0); a != 4 || l != 3 {
		t.Errorf("undone: behind the old size there is %d, want 4; the late member holds %d, want 3", a, l)
	}
	mustClose(t, s)
}
