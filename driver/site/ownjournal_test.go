package site_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// openWithJournals opens a site with its journals below /fast.
func openWithJournals(fs vfs.FS) (*opened, error) {
	log.Reset()
	ex := &exports{}
	s, err := site.Open(context.Background(), site.Config{Name: "a", Root: "/root", JournalRoot: "/fast", FS: fs, Exports: ex,
		SegmentBytes: journal.MinSegmentBytes, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		return nil, err
	}
	return &opened{s, ex}, nil
}

func mustOpenWithJournals(t *testing.T, fs vfs.FS) *opened {
	t.Helper()
	s, err := openWithJournals(fs)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fastDisk is a disk with an empty /fast.
func fastDisk(t *testing.T) *vfs.Mem {
	t.Helper()
	mem := vfs.NewMem()
	if err := errors.Join(mem.MkdirAll("/fast"), mem.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	return mem
}

// below lists what a directory holds; nothing if there is none.
func below(fs vfs.FS, dir string) string {
	names, err := fs.ReadDir(dir)
	if err != nil {
		return ""
	}
	return strings.Join(names, " ")
}

func TestJournalsOnADiskOfTheirOwn(t *testing.T) {
	ctx, mem := context.Background(), fastDisk(t)
	s := mustOpenWithJournals(t, mem)
	if err := s.create(volumeA, nil); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s = mustOpen(t, mem) // without it
	if v, err := s.Volume(volumeA); err != nil || !errors.Is(v.Err, journal.ErrNoJournal) {
		t.Errorf("without the journal root: %v, %v, want ErrNoJournal", v.Err, err)
	}
	if err := s.DeleteVolume(ctx, volumeA); !errors.Is(err, journal.ErrNoJournal) {
		t.Errorf("delete without the journal root: %v, want ErrNoJournal", err)
	}
	if err := s.create(volumeB, nil); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)

	s = mustOpenWithJournals(t, mem)
	for want := byte(1); want < 3; want++ {
		if err := s.fill(want); err != nil {
			t.Fatal(err)
		}
		mustClose(t, s)
		s = mustOpenWithJournals(t, mem)
		s.expect(t, want)
	}
	dirA, dirB := "/root/volumes/"+volumeA.String()+"/store-1", "/root/volumes/"+volumeB.String()+"/store-1"
	if got := below(mem, dirA); got != "base.crc base.img catalog.db lock volume.json" {
		t.Errorf("volume A's store holds %s", got)
	}
	if got := below(mem, dirB); !strings.Contains(got, "journal") {
		t.Errorf("volume B's store holds %s", got)
	}
	if got := below(mem, "/fast/a"); got != volumeA.String() {
		t.Errorf("the fast disk holds %s", got)
	}
	for _, id := range members {
		if err := s.DeleteVolume(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if got := below(mem, "/fast/a") + below(mem, "/root/volumes"); got != "" {
		t.Errorf("after both were deleted there is %s", got)
	}
	mustClose(t, s)
}

// A store that the record does not name is all that there is where the one that it names is
// missing, and stays then.
func TestStraysStayWhereTheStoreIsMissing(t *testing.T) {
	mem := fastDisk(t)
	s := mustOpenWithJournals(t, mem)
	if err := s.create(volumeA, nil); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	store, kept := "/root/volumes/"+volumeA.String()+"/store-", "/fast/a/"+volumeA.String()+"/store-"
	if err := errors.Join(mem.Rename(store+"1", store+"2"), mem.Rename(kept+"1", kept+"2")); err != nil {
		t.Fatal(err)
	}
	inStore, inJournal := below(mem, store+"2"), below(mem, kept+"2")
	s = mustOpenWithJournals(t, mem)
	if got := below(mem, store+"2"); got != inStore {
		t.Errorf("the store holds %q, and held %q", got, inStore)
	}
	if got := below(mem, kept+"2"); got != inJournal {
		t.Errorf("its journal holds %q, and held %q", got, inJournal)
	}
	mustClose(t, s)
}

func TestAJournalRootHasToBeThere(t *testing.T) {
	if _, err := openWithJournals(vfs.NewMem()); !errors.Is(err, vfs.ErrNotExist) {
		t.Errorf("open: %v, want ErrNotExist", err)
	}
	if _, err := site.Open(context.Background(), site.Config{Name: "a", Root: "/root", JournalRoot: "/root/", FS: vfs.NewMem()}); err == nil {
		t.Error("the root is accepted as journal root")
	}
}

// newImage replaces volume A by an image whose first sector holds 9.
func (o *opened) newImage() error {
	spec := replication.ImageSpec{Volume: volumeA, SizeBytes: volumeBytes, At: journal.Position{Timeline: 99, Seq: 7},
		Timelines: []journal.Timeline{{ID: 99, Reason: "created"}}}
	im, err := o.Replicas().Import(context.Background(), "shop", spec)
	if err != nil {
		return err
	}
	if err := im.WriteAt(bytes.Repeat([]byte{9}, 512), 0); err != nil {
		return errors.Join(err, im.Abort())
	}
	_, err = im.Commit(context.Background())
	return err
}

// Whatever is cut off, by a power loss that keeps a random part of what was not
// synced, can be repeated, and leaves no store and no journal but those in use.
func TestCrashAnywhereWithJournalsOnADiskOfTheirOwn(t *testing.T) {
	tests := []struct {
		name   string
		before func(*opened) error
		op     func(*opened) error
		stores string // that are left of volume A
	}{
		{"create", func(*opened) error { return nil }, func(s *opened) error { return s.create(volumeA, nil) }, "store-1"},
		{"delete", func(s *opened) error { return s.create(volumeA, nil) }, func(s *opened) error { return s.DeleteVolume(context.Background(), volumeA) }, ""},
		{"image", func(s *opened) error {
			return errors.Join(s.create(volumeA, nil), s.follow(2, []journal.VolumeID{volumeA}, nil))
		}, (*opened).newImage, "store-2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			crashed := 0
			for k := int64(1); ; k++ {
				mem := fastDisk(t)
				fault := vfs.NewFault(mem)
				s := mustOpenWithJournals(t, fault)
				if err := tt.before(s); err != nil {
					t.Fatal(err)
				}
				fault.CrashAt(fault.Count() + k)
				err := tt.op(s)
				_ = s.Close() // of no use once the disk is gone
				if !fault.Crashed() {
					if err != nil {
						t.Fatalf("without a crash: %v", err)
					}
					break
				}
				crashed++
				disk := mem.Crash(rand.New(rand.NewPCG(uint64(k), 7)))
				after := mustOpenWithJournals(t, disk)
				if v, err := after.Volume(volumeA); tt.name != "image" || err != nil || v.Tip.Timeline != 99 {
					if err := tt.op(after); err != nil {
						t.Fatalf("k=%d: repeated: %v", k, err)
					}
				}
				mustClose(t, after)
				mustClose(t, mustOpenWithJournals(t, disk)) // removes what is left over
				stores, journals := below(disk, "/root/volumes/"+volumeA.String()), below(disk, "/fast/a/"+volumeA.String())
				if stores != journals || tt.name != "image" && stores != tt.stores || len(strings.Fields(stores)) > 1 {
					t.Fatalf("k=%d: stores %q, journals %q", k, stores, journals)
				}
			}
			if crashed < 5 {
				t.Fatalf("only %d places to crash at", crashed)
			}
		})
	}
}
