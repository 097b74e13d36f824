package site_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// hasPoint reports whether the group has the point that is pinned as before.
func hasPoint(t *testing.T, s *opened, at string) bool {
	t.Helper()
	_, err := s.Groups().Select(context.Background(), "shop", at)
	if err != nil && !errors.Is(err, group.ErrNoPoint) {
		t.Fatal(err)
	}
	return err == nil
}

// TestPointsOutliveADeletedMember, on this site, over a restart, and until a
// volume of the same id is made again, which is not the one that the points
// name.
func TestPointsOutliveADeletedMember(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	if err := s.DeleteVolume(ctx, volumeB); err != nil {
		t.Fatal(err)
	}
	if !hasPoint(t, s, "pin:before") {
		t.Error("a point is gone with the member that was deleted")
	}
	mustClose(t, s)
	s = mustOpen(t, fs)
	if !hasPoint(t, s, "pin:before") {
		t.Error("a point is gone after a restart")
	}
	if a, err := s.Groups().Announcement(ctx, "shop"); err != nil || len(a.Deleted) != 1 || a.Deleted[0] != volumeB {
		t.Errorf("announced as deleted: %v, %v; want volume B", a.Deleted, err)
	}
	if err := s.create(volumeB, nil); err != nil {
		t.Fatal(err)
	}
	if hasPoint(t, s, "pin:before") {
		t.Error("a point that names the deleted volume B is one of the new volume B")
	}
	mustClose(t, s)
}

// TestUndoARewindThatAMemberDidNotOutlive: the others return to where they were, also
// after a restart, and the way back is given up with them.
func TestUndoARewindThatAMemberDidNotOutlive(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	if _, err := s.Groups().StartRewind(ctx, "shop", "pin:before", false); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteVolume(ctx, volumeB); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s = mustOpen(t, fs)
	if got := s.content(t, volumeA); got != 1 {
		t.Fatalf("volume A holds %d, want 1", got)
	}
	if _, err := s.Groups().UndoRewind(ctx, "shop", false); err != nil {
		t.Fatal(err)
	}
	if got := s.content(t, volumeA); got != 2 {
		t.Errorf("volume A holds %d after undo, want 2", got)
	}
	mustClose(t, s)
}

// overtaken is the context of a call that something comes before, when the call is
// about to wait for its turn.
type overtaken struct {
	context.Context
	by *sync.Once
	do func()
}

func (o overtaken) Err() error {
	o.by.Do(o.do)
	return o.Context.Err()
}

// TestADemotionComesBeforeADeletion: what was asked for while this site was the primary
// is not done to the replica.
func TestADemotionComesBeforeADeletion(t *testing.T) {
	for name, call := range map[string]func(*opened, context.Context) error{
		"delete": func(s *opened, ctx context.Context) error { return s.DeleteVolume(ctx, volumeB) },
		"retire": func(s *opened, ctx context.Context) error { return s.RetireVolume(ctx, volumeB) },
	} {
		t.Run(name, func(t *testing.T) {
			s := prepared(t, vfs.NewMem())
			before := false
			ctx := overtaken{context.Background(), &sync.Once{}, func() {
				follow(t, s, 2, members, nil)
				before = true
			}}
			if err := call(s, ctx); err != nil || !before {
				t.Fatalf("%v; demoted: %t", err, before)
			}
			if v, err := s.Volume(volumeB); err != nil || v.Retired {
				t.Errorf("the replica is gone, or retired: %+v, %v", v, err)
			}
			if st, err := s.Groups().State("shop"); err != nil || len(st.Members) != 2 {
				t.Errorf("the group is %+v, %v; want both members", st, err)
			}
			mustClose(t, s)
		})
	}
}

// received makes a site that is the replica of a group of which it has volume A
// only: volume B is named by a point and was never received.
func received(t *testing.T) *opened {
	t.Helper()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	if err := s.RetireVolume(context.Background(), volumeB); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Groups().TakePoint(context.Background(), "shop", "after"); err != nil {
		t.Fatal(err)
	}
	follow(t, s, 2, []journal.VolumeID{volumeA}, nil)
	mustClose(t, s)
	db, err := fs.OpenDB("/root/site.db")
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx kv.Tx) error { return tx.Delete("volumes", volumeB[:]) })
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return mustOpen(t, fs)
}

// TestNeverReceivedIsNotDeleted: a point whose member a replica never got is
// none, and does not become one when the replica is promoted.
func TestNeverReceivedIsNotDeleted(t *testing.T) {
	ctx := context.Background()
	s := received(t)
	if hasPoint(t, s, "pin:before") {
		t.Error("the replica has a point without a member")
	}
	// As it is when the primary had deleted the volume: its word comes.
	follow(t, s, 2, []journal.VolumeID{volumeA}, []journal.VolumeID{volumeB})
	if !hasPoint(t, s, "pin:before") {
		t.Error("the replica lacks a point whose other member was deleted")
	}
	// And the other way: a primary that has it says so.
	follow(t, s, 3, members, nil)
	if hasPoint(t, s, "pin:before") {
		t.Error("a member that is to come is taken for deleted")
	}
	mustClose(t, s)

	s = received(t)
	if _, err := s.Groups().Failover(ctx, "shop", "pin:after", false); err != nil {
		t.Fatal(err)
	}
	if !hasPoint(t, s, "pin:after") {
		t.Error("the point that the site failed over to is gone")
	}
	if hasPoint(t, s, "pin:before") {
		t.Error("the promoted replica takes a member that it never received for deleted")
	}
	mustClose(t, s)
}

// TestNumbersGoOnInAGroupThatIsMadeAgain: a volume of an earlier group of the
// name is kept for its pins, and its checkpoints with it.
func TestNumbersGoOnInAGroupThatIsMadeAgain(t *testing.T) {
	ctx := context.Background()
	s := mustOpen(t, vfs.NewMem())
	if err := s.create(volumeA, nil); err != nil {
		t.Fatal(err)
	}
	old, err := s.Groups().PinPoint(ctx, "shop", "kept", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RetireVolume(ctx, volumeA); err != nil {
		t.Fatal(err)
	}
	if err := s.create(volumeB, nil); err != nil {
		t.Fatal(err)
	}
	p, _, err := s.Groups().TakePoint(ctx, "shop", "")
	if err != nil || p.Checkpoint <= old.Checkpoint {
		t.Fatalf("checkpoint %d, %v, want one above %d", p.Checkpoint, err, old.Checkpoint)
	}
	if !hasPoint(t, s, "latest") || !hasPoint(t, s, "pin:kept") {
		t.Error("a point is hidden by one of the other group")
	}
	mustClose(t, s)
}

// TestAVolumeThatThePeerHasDeletedIsNotAttached: this site keeps it for its points, and is
// the primary again. CSI may know it still.
func TestAVolumeThatThePeerHasDeletedIsNotAttached(t *testing.T) {
	ctx := context.Background()
	s := prepared(t, vfs.NewMem())
	follow(t, s, 2, []journal.VolumeID{volumeA}, []journal.VolumeID{volumeB})
	if _, err := s.Groups().Failover(ctx, "shop", "latest", false); err != nil {
		t.Fatal(err)
	}
	if device, err := s.Attach(ctx, volumeB, 512, false); !errors.Is(err, site.ErrNotFound) {
		t.Errorf("attached as %q: %v, want ErrNotFound", device, err)
	}
	if _, err := s.Attach(ctx, volumeA, 512, false); !errors.Is(err, site.ErrNoHolder) {
		t.Errorf("the member that is left: %v, want nothing but ErrNoHolder", err)
	}
	mustClose(t, s)
}

// TestADeletedVolumeStaysDeletedOverAPowerLoss: the next volume of its id does not begin with
// what is left of it.
func TestADeletedVolumeStaysDeletedOverAPowerLoss(t *testing.T) {
	mem := vfs.NewMem()
	s := prepared(t, mem)
	if err := s.DeleteVolume(t.Context(), volumeB); err != nil {
		t.Fatal(err)
	}
	lost := mem.CrashWith(nil, vfs.CrashOptions{LoseAll: true})
	_ = s.Close() // its disk is gone
	s = mustOpen(t, lost)
	if err := s.create(volumeB, nil); err != nil {
		t.Fatal(err)
	}
	if got := s.content(t, volumeB); got != 0 {
		t.Errorf("a new volume holds %d", got)
	}
	mustClose(t, s)
}

// TestAVolumeIsNotMadeOfAStoreThatNobodyKnows: the site's database was lost, and CSI asks for
// a volume anew. What there is of it is neither shown as a new one nor removed.
func TestAVolumeIsNotMadeOfAStoreThatNobodyKnows(t *testing.T) {
	mem := vfs.NewMem()
	mustClose(t, prepared(t, mem))
	if err := mem.Rename("/root/site.db", "/root/site.db.away"); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, mem)
	for range 2 {
		if err := s.create(volumeB, nil); !errors.Is(err, journal.ErrExists) || !strings.Contains(err.Error(), "/root/volumes/"+volumeB.String()) {
			t.Errorf("create: %v, want ErrExists and where", err)
		}
	}
	mustClose(t, s)
	if err := mem.Rename("/root/site.db.away", "/root/site.db"); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, mem)
	s.expect(t, 2)
	mustClose(t, s)
}
