package site_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// doubtful is a disk on which a commit to the site's database fails after it was
// written, if it is to.
type doubtful struct {
	vfs.FS
	fail bool
}

type doubtfulDB struct {
	kv.DB
	disk   *doubtful
	failed bool
}

func (d *doubtful) OpenDB(name string) (kv.DB, error) {
	db, err := d.FS.OpenDB(name)
	if err != nil || !strings.HasSuffix(name, "/site.db") {
		return db, err
	}
	return &doubtfulDB{DB: db, disk: d}, nil
}

func (d *doubtfulDB) Update(fn func(kv.Tx) error) error {
	if d.failed {
		return kv.ErrPoisoned
	}
	err := d.DB.Update(fn)
	if err == nil && d.disk.fail {
		d.failed = true
		return errors.New("sync: input/output error")
	}
	return err
}

// TestASiteTellsOfItsPoisonedDatabase: whoever runs it has to end it, and its next start
// reads what the failed commit has left.
func TestASiteTellsOfItsPoisonedDatabase(t *testing.T) {
	disk := &doubtful{FS: vfs.NewMem()}
	told := make(chan error, 2)
	s, err := site.Open(t.Context(), site.Config{Name: "a", Root: "/root", FS: disk, Exports: &exports{}, SegmentBytes: journal.MinSegmentBytes,
		Fatal: func(err error) { told <- err }})
	if err != nil {
		t.Fatal(err)
	}
	n := site.NewVolume{ID: volumeA, Name: "a", SizeBytes: volumeBytes, Group: "shop", Settings: quiet()}
	if err := s.CreateVolume(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-told:
		t.Fatalf("told of a database that is well: %v", err)
	default:
	}
	disk.fail = true
	n.ID, n.Name = volumeB, "b"
	for range 2 {
		if err := s.CreateVolume(t.Context(), n); err == nil {
			t.Error("a volume was made whose record may not be durable")
		}
	}
	select {
	case err := <-told:
		if !strings.Contains(err.Error(), "input/output error") {
			t.Errorf("told of %v, want the failed commit", err)
		}
	default:
		t.Fatal("nobody is told")
	}
	disk.fail = false
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if len(told) > 0 {
		t.Errorf("told again: %v", <-told)
	}
	next := mustOpen(t, disk)
	if v, err := next.Volume(volumeB); err != nil || v.Name != "b" {
		t.Errorf("the record that had reached the disk: %+v, %v", v, err)
	}
	mustClose(t, next)
}

// TestAnImageWhoseRecordIsInDoubtIsNotRemoved: the commit that puts an image in a store's
// place fails, and may have reached the disk. The next start finds the one store or the
// other, although the peer goes on sending images until then.
func TestAnImageWhoseRecordIsInDoubtIsNotRemoved(t *testing.T) {
	ctx := context.Background()
	disk := &doubtful{FS: vfs.NewMem()}
	s := prepared(t, disk)
	demoted(t, s)
	spec := replication.ImageSpec{Volume: volumeA, SizeBytes: volumeBytes, At: journal.Position{Timeline: 99, Seq: 7},
		Timelines: []journal.Timeline{{ID: 99, Reason: "created"}}}
	im, err := s.Replicas().Import(ctx, "shop", spec)
	if err == nil {
		err = im.WriteAt(bytes.Repeat([]byte{9}, 512), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	disk.fail = true
	if _, err := im.Commit(ctx); err == nil {
		t.Fatal("the commit succeeded")
	}
	if _, err := s.Replicas().Import(ctx, "shop", spec); !errors.Is(err, kv.ErrPoisoned) {
		t.Errorf("the peer's next image is begun: %v", err)
	}
	disk.fail = false
	mustClose(t, s)
	s = mustOpen(t, disk)
	if got := s.content(t, volumeA); got != 9 {
		t.Errorf("the replica holds %d after a restart, want the image's 9", got)
	}
	mustClose(t, s)
}
