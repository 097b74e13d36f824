package site_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// TestAnImageWithoutRoomWaitsForRoom: an image that found no room is not begun again, and
// so not sent again, before there is more; then it is taken.
func TestAnImageWithoutRoomWaitsForRoom(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	demoted(t, s)
	spec := replication.ImageSpec{Volume: volumeA, SizeBytes: volumeBytes, At: journal.Position{Timeline: 99, Seq: 7},
		Timelines: []journal.Timeline{{ID: 99, Reason: "created"}}}
	fs.SetCapacity(1)
	im, err := s.Replicas().Import(ctx, "shop", spec)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte{9}, 1<<20)
	if err := im.WriteAt(data, 0); !errors.Is(err, journal.ErrFull) {
		t.Fatalf("an image finds room on a full disk: %v", err)
	}
	if err := im.Abort(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Replicas().Import(ctx, "shop", spec); !errors.Is(err, journal.ErrFull) {
		t.Fatalf("it is begun again: %v", err)
	}
	s.expect(t, 2) // the old store is as it was

	fs.SetCapacity(1 << 30)
	im, err = s.Replicas().Import(ctx, "shop", spec)
	if err == nil {
		err = im.WriteAt(data, 0)
	}
	if err == nil {
		_, err = im.Commit(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := s.content(t, volumeA); got != 9 {
		t.Errorf("the image has %d, want 9", got)
	}
	mustClose(t, s)
}

// TestAReplicaKeepsItsNewestPoint: a member of a replica that is fed while another one is
// stuck does not give up, for want of room, the newest point that both have. A restart in
// between changes nothing.
func TestAReplicaKeepsItsNewestPoint(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	if err := s.UnpinPoint(ctx, "before"); err != nil { // which would keep everything
		t.Fatal(err)
	}
	if _, _, err := s.Groups().TakePoint(ctx, "shop", ""); err != nil {
		t.Fatal(err)
	}
	newest, err := s.Groups().NewestPoint(ctx, "shop")
	if err != nil || newest == nil {
		t.Fatalf("newest point: %v, %v", newest, err)
	}
	demoted(t, s)
	mustClose(t, s)
	s = mustOpen(t, fs)
	store, err := s.Replicas().Replica(ctx, "shop", volumeA)
	if err != nil {
		t.Fatal(err)
	}
	fs.SetCapacity(1)
	line := journal.Timeline{ID: 99, Parent: store.Tip(), Reason: "failover"}
	if err := store.Adopt(line); err != nil {
		t.Fatal(err)
	}
	if !feedUntilFull(t, store, 99) {
		t.Fatal("the member takes all that it is sent")
	}
	s.hasPoint(t, newest.Checkpoint)
	mustClose(t, s)
	s = mustOpen(t, fs)
	if store, err = s.Replicas().Replica(ctx, "shop", volumeA); err != nil {
		t.Fatal(err)
	}
	feedUntilFull(t, store, 99)
	s.hasPoint(t, newest.Checkpoint)
	mustClose(t, s)
}

// feedUntilFull sends a member writes as its primary would, until it finds no room.
func feedUntilFull(t *testing.T, store replication.ReplicaStore, line journal.TimelineID) bool {
	t.Helper()
	for i := range 200 {
		p := bytes.Repeat([]byte{byte(i)}, 64<<10)
		r := journal.Record{Position: journal.Position{Timeline: line, Seq: store.Tip().Seq + 1}, Kind: journal.KindWrite, Offset: int64(i%8) * (64 << 10),
			Length: int64(len(p)), Payload: p, PayloadCRC: journal.PayloadChecksum(p)}
		err := store.AppendRecords([]journal.Record{r})
		if errors.Is(err, journal.ErrFull) {
			if _, err := store.Reclaim(context.Background()); err != nil {
				t.Fatal(err)
			}
			err = store.AppendRecords([]journal.Record{r})
		}
		if errors.Is(err, journal.ErrFull) {
			return true
		}
		if err := errors.Join(err, store.Flush(context.Background())); err != nil {
			t.Fatal(err)
		}
	}
	return false
}

// hasPoint makes sure that a checkpoint is the group's newest point.
func (o *opened) hasPoint(t *testing.T, want journal.CheckpointNumber) {
	t.Helper()
	p, err := o.Groups().NewestPoint(context.Background(), "shop")
	if err != nil || p == nil || p.Checkpoint != want {
		t.Errorf("the newest point is %+v (%v), want checkpoint %d", p, err, want)
	}
}
