package site_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// TestReopenOfAPoisonedVolume: a volume whose disk failed once serves again
// without a restart of the site, and so does its group.
func TestReopenOfAPoisonedVolume(t *testing.T) {
	ctx := context.Background()
	fault := vfs.NewFault(vfs.NewMem())
	s := prepared(t, fault)
	if done, err := s.ReopenVolume(ctx, volumeA); done || err != nil {
		t.Fatalf("reopen of a volume that is well: %v, %v", done, err)
	}
	if _, err := s.ReopenVolume(ctx, journal.VolumeID{77}); !errors.Is(err, site.ErrNotFound) {
		t.Errorf("reopen of an unknown volume: %v, want ErrNotFound", err)
	}
	last, _, err := s.Groups().TakePoint(ctx, "shop", "")
	if err != nil {
		t.Fatal(err)
	}
	dev := s.exports.device(volumeA)
	// Each sync: the next one may be that of a segment which is made ready meanwhile.
	fault.FailFrom(fault.Count(vfs.OpSync)+1, errors.New("disk says no"), vfs.OpSync)
	if err := dev.WriteAt(ctx, bytes.Repeat([]byte{3}, 512), 0, true); err == nil {
		t.Fatal("a write was acknowledged that could not be synced")
	}
	if err := dev.WriteAt(ctx, make([]byte, 512), 0, true); err == nil {
		t.Fatal("the volume is not poisoned")
	}
	if _, _, err := s.Groups().TakePoint(ctx, "shop", ""); err == nil {
		t.Fatal("a point without a member")
	}
	view, err := s.OpenView(ctx, "shop", "pin:before")
	if err == nil { // else the poisoned store refuses it
		t.Fatalf("view %s of a poisoned volume", view.ID)
	}
	fault.Mend()
	if done, err := s.ReopenVolume(ctx, volumeA); !done || err != nil {
		t.Fatalf("reopen: %v, %v", done, err)
	}
	if got := s.content(t, volumeA); got != 2 && got != 3 {
		t.Errorf("the volume holds %d; what was flushed is lost", got)
	}
	if err := s.fill(4); err != nil {
		t.Fatal(err)
	}
	s.expect(t, 4)
	p, _, err := s.Groups().TakePoint(ctx, "shop", "")
	if err != nil || p.Checkpoint <= last.Checkpoint || len(p.Members) != 2 {
		t.Errorf("point after the reopen: %+v, %v; the last was %d", p, err, last.Checkpoint)
	}
	mustClose(t, s)
}

// TestReopenOfAVolumeThatDidNotOpen: what kept it from opening was mended
// while the site ran.
func TestReopenOfAVolumeThatDidNotOpen(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	mustClose(t, prepared(t, fs))
	base := "/root/volumes/" + volumeB.String() + "/store-1/base.img"
	if err := fs.Rename(base, base+".away"); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, fs)
	if _, err := s.ReopenVolume(ctx, volumeB); err == nil {
		t.Fatal("a store without its base was opened")
	}
	if err := s.exports.device(volumeA).WriteAt(ctx, bytes.Repeat([]byte{2}, 512), 0, true); err != nil {
		t.Errorf("write to the other member after a failed reopen: %v", err)
	}
	if err := fs.Rename(base+".away", base); err != nil {
		t.Fatal(err)
	}
	if done, err := s.ReopenVolume(ctx, volumeB); !done || err != nil {
		t.Fatalf("reopen: %v, %v", done, err)
	}
	s.expect(t, 2)
	if _, _, err := s.Groups().TakePoint(ctx, "shop", ""); err != nil {
		t.Error(err)
	}
	mustClose(t, s)
}

// demoted makes the prepared site the replica of another one.
func demoted(t *testing.T, s *opened) {
	t.Helper()
	follow(t, s, 2, members, nil)
}

func follow(t *testing.T, s *opened, term group.Term, members, deleted []journal.VolumeID) {
	t.Helper()
	if err := s.follow(term, members, deleted); err != nil {
		t.Fatal(err)
	}
}

// follow has the site hear from a primary.
func (o *opened) follow(term group.Term, members, deleted []journal.VolumeID) error {
	a := replication.Announcement{Group: "shop", Term: term, Settings: quiet(), Deleted: deleted}
	for _, id := range members {
		a.Members = append(a.Members, replication.Member{Volume: id, Name: id.String(), SizeBytes: volumeBytes})
	}
	return o.Groups().Standings().Follow(context.Background(), "b", a)
}

// TestAnImageWaitsForViews: a store is not taken away under who looks at it,
// and the image that is to replace it is not lost.
func TestAnImageWaitsForViews(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	demoted(t, s)
	line := journal.Timeline{ID: 99, Reason: "created"}
	spec := replication.ImageSpec{Volume: volumeA, SizeBytes: volumeBytes, At: journal.Position{Timeline: 99, Seq: 7}, Timelines: []journal.Timeline{line}}
	im, err := s.Replicas().Import(ctx, "shop", spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := im.WriteAt(bytes.Repeat([]byte{9}, 512), 0); err != nil {
		t.Fatal(err)
	}
	view, err := s.OpenView(ctx, "shop", "pin:before")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := im.Commit(ctx); !errors.Is(err, replication.ErrInUse) || !strings.Contains(err.Error(), view.ID) {
			t.Fatalf("commit under a view: %v, want ErrInUse that names view %s", err, view.ID)
		}
	}
	if _, err := s.Replicas().Import(ctx, "shop", replication.ImageSpec{Volume: volumeB, SizeBytes: volumeBytes, At: spec.At, Timelines: spec.Timelines}); !errors.Is(err, replication.ErrInUse) {
		t.Errorf("begin an image under a view: %v, want ErrInUse", err)
	}
	dev, err := s.ViewDevice(view.ID, volumeA)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 512)
	if err := dev.ReadAt(ctx, p, 0); err != nil || p[0] != 1 {
		t.Errorf("the view holds %d, %v, want 1", p[0], err)
	}
	if err := s.CloseView(view.ID); err != nil {
		t.Fatal(err)
	}
	store, err := im.Commit(ctx)
	if err != nil || store.Tip() != spec.At {
		t.Fatalf("commit after the view was closed: %v, %v", store, err)
	}
	if got := s.content(t, volumeA); got != 9 {
		t.Errorf("the replica holds %d, want 9", got)
	}
	mustClose(t, s)
	s = mustOpen(t, fs)
	if got := s.content(t, volumeA); got != 9 {
		t.Errorf("the replica holds %d after a restart, want 9", got)
	}
	mustClose(t, s)
}

// rewindPins lists the pins of rewinds in a store that is not open.
func rewindPins(t *testing.T, fs vfs.FS, id journal.VolumeID) []string {
	t.Helper()
	return slices.DeleteFunc(pinsOf(t, fs, id), func(pin string) bool { return !group.IsRewindPin(pin) })
}

// pinsOf lists the pins in a store that is not open.
func pinsOf(t *testing.T, fs vfs.FS, id journal.VolumeID) (pins []string) {
	t.Helper()
	report, err := journal.Verify(context.Background(), journal.Config{FS: fs, Dir: "/root/volumes/" + id.String() + "/store-1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Pins {
		pins = append(pins, p.Name)
	}
	return pins
}

// TestADemotedSiteGivesUpItsRewind, and with it the pins, which would hold the
// replica's journal for ever.
func TestADemotedSiteGivesUpItsRewind(t *testing.T) {
	fs := vfs.NewMem()
	s := prepared(t, fs)
	if _, err := s.Groups().StartRewind(context.Background(), "shop", "pin:before", false); err != nil {
		t.Fatal(err)
	}
	demoted(t, s)
	mustClose(t, s)
	for _, id := range members {
		if pins := rewindPins(t, fs, id); len(pins) != 0 {
			t.Errorf("volume %s keeps %v", id, pins)
		}
	}
}

// TestANewPrimaryEndsAnUnfinishedOperation: a rewind that could not be finished
// must not make this site primary again once another one is.
func TestANewPrimaryEndsAnUnfinishedOperation(t *testing.T) {
	ctx := context.Background()
	unfinished := 0
	for k := int64(1); k <= 12; k++ {
		mem := vfs.NewMem()
		fault := vfs.NewFault(mem)
		s := prepared(t, fault)
		fault.FailAfter(k, errors.New("disk says no"), vfs.OpCommit)
		_, err := s.Groups().StartRewind(ctx, "shop", "pin:before", false)
		if g, descErr := s.Groups().Summary(context.Background(), "shop"); descErr != nil || g.State.Pending == nil {
			_ = s.Close() // its database may be the one that failed
			continue
		}
		unfinished++
		if err == nil {
			t.Fatalf("k=%d: an unfinished rewind is no error", k)
		}
		demoted(t, s)
		_ = s.Close() // a store is poisoned
		s = mustOpen(t, mem)
		g, err := s.Groups().Summary(context.Background(), "shop")
		if err != nil || g.State.Role != group.RoleReplica || g.State.Term != 2 || g.State.Pending != nil {
			t.Fatalf("k=%d: %+v, %v: want a replica at term 2", k, g.State, err)
		}
		mustClose(t, s)
	}
	if unfinished == 0 {
		t.Fatal("no rewind was left unfinished")
	}
}

// TestAVolumeThatFoundNoRoomOpens: a site that is started while its disk is full has
// volumes that do not open, and when there is room again nobody has to do anything.
func TestAVolumeThatFoundNoRoomOpens(t *testing.T) {
	mem := vfs.NewMem()
	s := prepared(t, mem)
	if err := s.fill(3); err != nil {
		t.Fatal(err)
	}
	killed := mem.KillClone()
	mustClose(t, s)
	fault := vfs.NewFault(killed)
	fault.FailFrom(1, vfs.ErrNoSpace, vfs.OpCommit)
	k := &kept{t: t, clock: clock.NewManual(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))}
	ex := &exports{}
	full, err := site.Open(t.Context(), site.Config{Name: "a", Root: "/root", FS: fault, Exports: ex, Clock: k.clock,
		SegmentBytes: journal.MinSegmentBytes, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	k.opened = &opened{full, ex}
	for _, id := range members {
		if v, err := k.Volume(id); err != nil || v.Open || !errors.Is(v.Err, journal.ErrFull) {
			t.Fatalf("volume %s on a full disk: open %v, %v, %v", id, v.Open, v.Err, err)
		}
	}
	fault.Mend()
	k.goOn(func() bool {
		point, _, err := k.Groups().TakePoint(t.Context(), "shop", "")
		return err == nil && len(point.Members) == len(members)
	})
	k.expect(t, 3)
	if err := k.fill(4); err != nil {
		t.Error(err)
	}
	mustClose(t, k.opened)
}

// TestAnUnfinishedRewindKeepsItsPoint: a rewind that was written down waits for a member that
// does not open. The others do not give up meanwhile what it returns to.
func TestAnUnfinishedRewindKeepsItsPoint(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	points, err := s.Groups().Points(ctx, "shop")
	if err != nil || len(points) != 1 {
		t.Fatalf("%d points, %v", len(points), err)
	}
	if err := s.UnpinPoint(ctx, "before"); err != nil {
		t.Fatal(err)
	}
	for range 4 * journal.MinSegmentBytes / (64 << 10) {
		if err := s.exports.device(volumeA).WriteAt(ctx, bytes.Repeat([]byte{3}, 64<<10), 0, false); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, s)
	db, err := fs.OpenDB("/root/site.db")
	if err != nil {
		t.Fatal(err)
	}
	reg, err := group.OpenRegistry(db)
	if err == nil {
		err = reg.Begin("shop", group.Operation{ID: "1", Kind: group.OperationRewind, Targets: points[0].Members, Role: group.RolePrimary, Term: 1},
			func(st *group.State) { st.Settings.JournalBytes = journal.MinSegmentBytes })
	}
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	base := "/root/volumes/" + volumeB.String() + "/store-1/base.img"
	if err := fs.Rename(base, base+".away"); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, fs)
	st, err := s.Groups().State("shop")
	if err != nil || st.Pending == nil {
		t.Fatalf("the rewind is over without a member: %+v, %v", st, err)
	}
	store, err := s.Replicas().Replica(ctx, "shop", volumeA)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.(interface{ Maintain(context.Context) error }).Maintain(ctx); err != nil {
		t.Fatal(err)
	}
	if err := fs.Rename(base+".away", base); err != nil {
		t.Fatal(err)
	}
	if done, err := s.ReopenVolume(ctx, volumeB); !done || err != nil {
		t.Fatalf("reopen: %v, %v", done, err)
	}
	s.expect(t, 1)
	mustClose(t, s)
}
