package site_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// pausedFS is a disk with something to be done before a file of one volume is read next.
type pausedFS struct {
	vfs.FS
	of     string
	before atomic.Pointer[func()]
}

func (d *pausedFS) Open(name string) (vfs.File, error)   { return d.file(name)(d.FS.Open(name)) }
func (d *pausedFS) Create(name string) (vfs.File, error) { return d.file(name)(d.FS.Create(name)) }

func (d *pausedFS) file(name string) func(vfs.File, error) (vfs.File, error) {
	return func(f vfs.File, err error) (vfs.File, error) {
		if err != nil || !strings.Contains(name, d.of) {
			return f, err
		}
		return pausedFile{f, d}, nil
	}
}

type pausedFile struct {
	vfs.File
	disk *pausedFS
}

func (f pausedFile) ReadAt(p []byte, off int64) (int, error) {
	f.disk.pause()
	return f.File.ReadAt(p, off)
}

func (f pausedFile) ReadVecAt(bufs [][]byte, off int64) (int, error) {
	f.disk.pause()
	return f.File.ReadVecAt(bufs, off)
}

func (d *pausedFS) pause() {
	if do := d.before.Swap(nil); do != nil {
		(*do)()
	}
}

// TestAViewMeetsAnImage: who opens a view of a replica while an image takes the place of its
// store is told to try again, and not of an error of the disk.
func TestAViewMeetsAnImage(t *testing.T) {
	ctx := context.Background()
	disk := &pausedFS{FS: vfs.NewMem(), of: volumeB.String() + "/store-1/journal/"}
	mustClose(t, prepared(t, disk)) // which seals the segments: others are not read for a view
	s := mustOpen(t, disk)
	demoted(t, s)
	im, err := s.Replicas().Import(ctx, "shop", replication.ImageSpec{Volume: volumeB, SizeBytes: volumeBytes,
		At: journal.Position{Timeline: 99, Seq: 7}, Timelines: []journal.Timeline{{ID: 99, Reason: "created"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := im.WriteAt(bytes.Repeat([]byte{9}, 512), 0); err != nil {
		t.Fatal(err)
	}
	committed := errors.New("nothing was read")
	commit := func() { _, committed = im.Commit(ctx) }
	disk.before.Store(&commit)
	view, err := s.OpenView(ctx, "shop", "pin:before")
	if committed != nil {
		t.Fatalf("commit of the image meanwhile: %v", committed)
	}
	if !errors.Is(err, groups.ErrInUse) || errors.Is(err, vfs.ErrClosed) {
		t.Errorf("view %+v, %v; want ErrInUse alone", view, err)
	}
	if open := s.ListViews(); len(open) != 0 {
		t.Errorf("open views: %+v", open)
	}
	mustClose(t, s)
}
