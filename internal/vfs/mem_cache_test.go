package vfs_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

var errDisk = errors.New("disk says no")

// afterFailedSync returns a file of two sectors that held "a" and "b" and got
// "c" and "d", and whose sync then failed.
func afterFailedSync(t *testing.T, chance uint64) (*vfs.Mem, vfs.File) {
	t.Helper()
	m := vfs.NewMem()
	m.SetChance(chance)
	must(t, m.MkdirAll("/store"), m.SyncDir("/"))
	must(t, syncedFile(t, m, "/store/f", strings.Repeat("a", sector)+strings.Repeat("b", sector)).Close())
	fault := vfs.NewFault(m)
	f, err := fault.Open("/store/f")
	must(t, err)
	_, err = f.WriteAt([]byte(strings.Repeat("c", sector)+strings.Repeat("d", sector)), 0)
	must(t, err)
	fault.FailAt(fault.Count(vfs.OpSync)+1, errDisk, vfs.OpSync)
	if err := f.Sync(); !errors.Is(err, errDisk) {
		t.Fatalf("sync: %v", err)
	}
	return m, f
}

// initials reads the first byte of each sector.
func initials(t *testing.T, fs vfs.FS) string {
	t.Helper()
	f, err := fs.Open("/store/f")
	must(t, err)
	defer f.Close()
	p := make([]byte, 2*sector)
	_, err = f.ReadAt(p, 0)
	must(t, err)
	return string([]byte{p[0], p[sector]})
}

// TestAFailedSyncLeavesPagesThatReadAsWritten, until they leave the cache.
func TestAFailedSyncLeavesPagesThatReadAsWritten(t *testing.T) {
	found := map[string]int{}
	for chance := range uint64(100) {
		m, f := afterFailedSync(t, chance)
		must(t, f.Sync()) // succeeds, and helps nothing
		if got := initials(t, m); got != "cd" {
			t.Fatalf("the cache holds %q", got)
		}
		m.Evict()
		seen := initials(t, m)
		found[seen]++
		m.Evict()
		if got := initials(t, m); got != seen {
			t.Fatalf("the disk holds %q, then %q", seen, got)
		}
		// A sync makes what was read from the disk stay; what was lost is
		// lost.
		must(t, f.Sync())
		for seed := range uint64(5) {
			if got := initials(t, m.Crash(rand.New(rand.NewPCG(seed, 1)))); got != seen {
				t.Fatalf("a crash left %q of %q", got, seen)
			}
		}
	}
	expectOutcomes(t, found, "ab", "ad", "cb", "cd")
}

func TestDirtyPagesStayInTheCache(t *testing.T) {
	for chance := range uint64(20) {
		m, f := afterFailedSync(t, chance)
		_, err := f.WriteAt([]byte(strings.Repeat("e", sector)), 0)
		must(t, err)
		f.DropCache()
		if got := initials(t, m); got[0] != 'e' {
			t.Fatalf("a dirty page was dropped: %q", got)
		}
		must(t, f.Sync())
		if got := initials(t, m.Crash(rand.New(rand.NewPCG(chance, 1)))); got[0] != 'e' {
			t.Fatalf("a synced page was lost: %q", got)
		}
	}
}
