package enginepod_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/journal"
)

// below lists what a directory holds.
func (r *rig) below(dir string) string {
	r.t.Helper()
	names, err := r.fs.ReadDir(dir)
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.Join(names, " ")
}

// newRigWithJournal is a rig whose journal has a backing volume of its own.
func newRigWithJournal(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, newNetwork(), 1)
	r.stop()
	r.journal = "/journal"
	if err := r.fs.MkdirAll(r.journal); err != nil {
		t.Fatal(err)
	}
	r.start()
	return r
}

func TestAJournalOnABackingVolumeOfItsOwn(t *testing.T) {
	r := newRigWithJournal(t)
	r.order(r.primary(1, 1))
	if err := r.engine().WriteAt(ctx, bytes.Repeat([]byte{7}, 512), 0, true); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if got := r.below("/backing/store-1"); got != "base.crc base.img catalog.db lock volume.json" {
		t.Errorf("the store holds %s", got)
	}
	if got := r.below("/journal/store-1"); !strings.Contains(got, "journal.json") || !strings.Contains(got, ".seg") {
		t.Errorf("the journal holds %s", got)
	}
	r.start()
	r.order(r.primary(1, 2))
	p := make([]byte, 512)
	if err := r.engine().ReadAt(ctx, p, 0); err != nil || p[0] != 7 {
		t.Errorf("read %d, %v, want 7", p[0], err)
	}
}

// An engine that finds an empty journal's volume, or another volume's, says so
// and makes nothing of it.
func TestAWrongJournalsBackingVolumeIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		mount func(r *rig) error
		want  error
	}{
		"empty": {func(r *rig) error { return errors.Join(r.fs.Rename("/journal", "/kept"), r.fs.MkdirAll("/journal")) }, journal.ErrNoJournal},
		"another volume's": {func(r *rig) error {
			return errors.Join(r.fs.Rename("/journal", "/kept"), r.fs.MkdirAll("/journal"),
				journal.Create(journal.Config{FS: r.fs, Dir: "/other", JournalDir: "/journal/store-1"}, journal.Spec{Volume: journal.VolumeID{9}, SizeBytes: volumeBytes}),
				journal.Create(journal.Config{FS: r.fs, Dir: "/stray", JournalDir: "/journal/store-2"}, journal.Spec{Volume: journal.VolumeID{9}, SizeBytes: volumeBytes}))
		}, journal.ErrForeign},
		"not mounted": {func(r *rig) error { r.journal = ""; return nil }, journal.ErrNoJournal},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRigWithJournal(t)
			r.order(r.primary(1, 1))
			r.stop()
			if err := c.mount(r); err != nil {
				t.Fatal(err)
			}
			before := r.below("/journal")
			r.start()
			if _, err := r.client.Order(ctx, r.primary(1, 2)); err == nil || !strings.Contains(err.Error(), c.want.Error()) {
				t.Errorf("orders: %v, want %v", err, c.want)
			}
			if after := r.below("/journal"); after != before {
				t.Errorf("the journal's volume held %q, and holds %q", before, after)
			}
		})
	}
}

// A store that is lost while its journal is there is not made anew.
func TestALostStoreTakesNoJournal(t *testing.T) {
	r := newRigWithJournal(t)
	r.order(r.primary(1, 1))
	if err := r.engine().WriteAt(ctx, bytes.Repeat([]byte{7}, 512), 0, true); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if err := errors.Join(r.fs.RemoveAll("/backing"), r.fs.MkdirAll("/backing")); err != nil {
		t.Fatal(err)
	}
	before := r.below("/journal/store-1")
	r.start()
	if _, err := r.client.Order(ctx, r.primary(1, 2)); err == nil || !strings.Contains(err.Error(), journal.ErrForeign.Error()) {
		t.Errorf("orders: %v, want ErrForeign", err)
	}
	if after := r.below("/journal/store-1"); after != before {
		t.Errorf("the journal held %q, and holds %q", before, after)
	}
}

// Strays go from both volumes.
func TestStrayJournalsAreRemoved(t *testing.T) {
	r := newRigWithJournal(t)
	r.order(r.primary(1, 1))
	r.stop()
	for _, stray := range []string{"store-2", "store-3"} {
		if err := journal.Create(journal.Config{FS: r.fs, Dir: "/backing/" + stray, JournalDir: "/journal/" + stray}, journal.Spec{Volume: r.id, SizeBytes: volumeBytes}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.fs.RemoveAll("/backing/store-3"); err != nil {
		t.Fatal(err)
	}
	r.start()
	if got := r.below("/journal"); got != "store-1" {
		t.Errorf("the journal's volume holds %s", got)
	}
	if got := r.below("/backing"); strings.Contains(got, "store-2") {
		t.Errorf("the store's volume holds %s", got)
	}
	r.order(r.primary(1, 2))
}

// A store that the record does not name is all that there is where the one that it names is
// missing, and stays then.
func TestStraysStayWhereTheStoreIsMissing(t *testing.T) {
	r := newRigWithJournal(t)
	r.order(r.primary(1, 1))
	r.stop()
	if err := errors.Join(r.fs.Rename("/backing/store-1", "/backing/store-2"), r.fs.Rename("/journal/store-1", "/journal/store-2")); err != nil {
		t.Fatal(err)
	}
	store, kept := r.below("/backing/store-2"), r.below("/journal/store-2")
	r.start()
	if got := r.below("/backing/store-2"); got != store {
		t.Errorf("the store holds %q, and held %q", got, store)
	}
	if got := r.below("/journal/store-2"); got != kept {
		t.Errorf("its journal holds %q, and held %q", got, kept)
	}
}
