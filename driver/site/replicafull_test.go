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
// stuck does not give up, for its budget, the newest point that both have. A restart in
// between changes nothing. Where there is no room it does, and takes all that it is sent.
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
	store := fedMember(t, s)
	line := journal.Timeline{ID: 99, Parent: store.Tip(), Reason: "failover"}
	if err := store.Adopt(line); err != nil {
		t.Fatal(err)
	}
	feed(t, store, line.ID)
	s.hasPoint(t, newest.Checkpoint)
	mustClose(t, s)
	s = mustOpen(t, fs)
	store = fedMember(t, s)
	feed(t, store, line.ID)
	s.hasPoint(t, newest.Checkpoint)
	if n := s.pointsGivenUp(); n != 0 {
		t.Errorf("%d points were given up although there is room", n)
	}

	total, free, err := fs.Space("/root")
	if err != nil {
		t.Fatal(err)
	}
	fs.SetCapacity(total - free + 4*journal.MinSegmentBytes)
	feed(t, store, line.ID)
	if p, err := s.Groups().NewestPoint(ctx, "shop"); err != nil || p != nil {
		t.Errorf("the newest point is %+v (%v), on a disk that has no room for it", p, err)
	}
	if n := s.pointsGivenUp(); n == 0 {
		t.Error("nobody can tell that a point was given up")
	}
	mustClose(t, s)
}

// smallBudget is far less than what feed sends.
const smallBudget = 4 * journal.MinSegmentBytes

// fedMember is the store of a replica's member, with a small budget.
func fedMember(t *testing.T, s *opened) replication.ReplicaStore {
	t.Helper()
	store, err := s.Replicas().Replica(context.Background(), "shop", volumeA)
	if err != nil {
		t.Fatal(err)
	}
	store.(interface{ SetRetention(journal.Retention) }).SetRetention(journal.Retention{JournalBytes: smallBudget})
	return store
}

// feed sends a member writes as its primary would, and has it maintained. All are taken.
func feed(t *testing.T, store replication.ReplicaStore, line journal.TimelineID) {
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
		if err := errors.Join(err, store.Flush(context.Background())); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.(interface{ Maintain(context.Context) error }).Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// pointsGivenUp is how often a member has given up what it kept of the newest point.
func (o *opened) pointsGivenUp() (n uint64) {
	for _, v := range o.Volumes() {
		n += v.Stats.Space.PointsGivenUp
	}
	return n
}

// hasPoint makes sure that a checkpoint is the group's newest point.
func (o *opened) hasPoint(t *testing.T, want journal.CheckpointNumber) {
	t.Helper()
	p, err := o.Groups().NewestPoint(context.Background(), "shop")
	if err != nil || p == nil || p.Checkpoint != want {
		t.Errorf("the newest point is %+v (%v), want checkpoint %d", p, err, want)
	}
}
