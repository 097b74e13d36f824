package site_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

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
