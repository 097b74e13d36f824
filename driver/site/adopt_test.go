package site_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

const strayStore = "/imports/disk"

var volumeC = journal.VolumeID{3}

// withStray is a file system with a site's root, and a store beside it.
func withStray(t *testing.T) *vfs.Mem {
	t.Helper()
	mem := vfs.NewMem()
	if err := errors.Join(mem.MkdirAll("/imports"), mem.MkdirAll("/root"), mem.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	cfg := journal.Config{FS: mem, Dir: strayStore, SegmentBytes: journal.MinSegmentBytes}
	if err := journal.Create(cfg, journal.Spec{Volume: volumeC, SizeBytes: volumeBytes}); err != nil {
		t.Fatal(err)
	}
	store, err := journal.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Write(bytes.Repeat([]byte{7}, 512), 0)
	if err = errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	return mem
}

func (o *opened) adopt(t *testing.T, dir string) error {
	t.Helper()
	id, err := o.AdoptStore(context.Background(), site.Adoption{Dir: dir, Name: "disk", Group: "shop", Settings: quiet()})
	if err == nil {
		err = o.EndAdoption(context.Background(), id)
	}
	return err
}

func TestAdoptStore(t *testing.T) {
	mem := withStray(t)
	s := mustOpen(t, mem)
	if err := s.adopt(t, strayStore); err != nil {
		t.Fatal(err)
	}
	if got := s.content(t, volumeC); got != 7 {
		t.Errorf("the volume holds %d", got)
	}
	if _, err := mem.Stat(strayStore); !errors.Is(err, vfs.ErrNotExist) {
		t.Errorf("the store is where it was: %v", err)
	}
	if err := s.adopt(t, strayStore); !errors.Is(err, journal.ErrNotStore) {
		t.Errorf("again: %v", err)
	}
	st, err := s.Groups().State("shop")
	if err != nil || len(st.Members) != 1 || st.Members[0] != volumeC {
		t.Errorf("group %+v, %v", st, err)
	}
	if _, _, err := s.Groups().TakePoint(context.Background(), "shop", ""); err != nil {
		t.Errorf("its group takes no point: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, mem)
	defer s.Close()
	if got := s.content(t, volumeC); got != 7 {
		t.Errorf("after a restart the volume holds %d", got)
	}
}

func TestAdoptStoreRefuses(t *testing.T) {
	mem := withStray(t)
	s := mustOpen(t, mem)
	defer s.Close()
	if err := s.create(volumeC, nil); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		dir  string
		want error
	}{
		"a volume that the site has": {strayStore, journal.ErrExists},
		"no store":                   {"/imports", journal.ErrNotStore},
		"a relative path":            {"imports/disk", site.ErrBadStore},
		"a store of the site":        {"/root/volumes/" + volumeC.String() + "/store-1", site.ErrBadStore},
	} {
		if err := s.adopt(t, c.dir); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	held, err := journal.OpenReadOnly(journal.Config{FS: mem, Dir: strayStore})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.adopt(t, strayStore); !errors.Is(err, journal.ErrInUse) {
		t.Errorf("a store in use: %v", err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestCrashWhileAdopting cuts the power at every operation: the store is where it
// was or a volume, and another attempt makes it one.
func TestCrashWhileAdopting(t *testing.T) {
	for k := int64(1); ; k++ {
		mem := withStray(t)
		s := mustOpen(t, mem)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		fault, chance := vfs.NewFault(mem), rand.New(rand.NewPCG(9, uint64(k)))
		s = mustOpen(t, fault)
		fault.CrashTornAt(fault.Count()+k, chance)
		err := s.adopt(t, strayStore)
		_ = s.Close() // of a machine that has lost its power
		if err == nil {
			if k < 5 {
				t.Fatalf("only %d operations", k)
			}
			return
		}
		for i, after := range []*vfs.Mem{mem.KillClone(), mem.Crash(chance), mem.CrashWith(nil, vfs.CrashOptions{LoseAll: true})} {
			again := mustOpen(t, after)
			if err := again.adopt(t, strayStore); err != nil && !errors.Is(err, journal.ErrNotStore) {
				t.Fatalf("operation %d, outcome %d: another attempt: %v", k, i, err)
			}
			if got := again.content(t, volumeC); got != 7 {
				t.Fatalf("operation %d, outcome %d: the volume holds %d", k, i, got)
			}
			if st, err := again.Groups().State("shop"); err != nil || len(st.Members) != 1 {
				t.Fatalf("operation %d, outcome %d: group %+v, %v", k, i, st, err)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
			// What the other attempt has said stays so when the power goes.
			again = mustOpen(t, after.CrashWith(nil, vfs.CrashOptions{LoseAll: true}))
			if got := again.content(t, volumeC); got != 7 {
				t.Fatalf("operation %d, outcome %d: after a power loss the volume holds %d", k, i, got)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestAnotherStoreInThePlaceOfOneBeingAdopted: an adoption was cut off before the store moved, and
// another store has come to be there since. It does not become the volume of the first.
func TestAnotherStoreInThePlaceOfOneBeingAdopted(t *testing.T) {
	for k := int64(1); ; k++ {
		mem := withStray(t)
		s := mustOpen(t, mem)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		fault := vfs.NewFault(mem)
		s = mustOpen(t, fault)
		fault.CrashAt(fault.Count() + k)
		err := s.adopt(t, strayStore)
		_ = s.Close() // of a process that was killed
		if err == nil {
			if k < 5 {
				t.Fatalf("only %d operations", k)
			}
			return
		}
		after := mem.KillClone()
		if !journal.IsStore(after, strayStore) {
			continue // it has moved
		}
		other := journal.VolumeID{4}
		if err := after.RemoveAll(strayStore); err != nil {
			t.Fatal(err)
		}
		if err := journal.Create(journal.Config{FS: after, Dir: strayStore, SegmentBytes: journal.MinSegmentBytes}, journal.Spec{Volume: other, SizeBytes: volumeBytes}); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, after)
		if err := s.adopt(t, strayStore); err != nil { // of the first, which is given up
			if !errors.Is(err, site.ErrBadStore) {
				t.Fatalf("operation %d: %v", k, err)
			}
			if err := s.adopt(t, strayStore); err != nil {
				t.Fatalf("operation %d, again: %v", k, err)
			}
		}
		st, err := s.Groups().State("shop")
		if err != nil || len(st.Members) != 1 || st.Members[0] != other {
			t.Errorf("operation %d: the group is %+v, %v, want volume %s", k, st.Members, err, other)
		}
		if _, err := s.Volume(volumeC); !errors.Is(err, site.ErrNotFound) {
			t.Errorf("operation %d: there is a volume of the store that is gone: %v", k, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
