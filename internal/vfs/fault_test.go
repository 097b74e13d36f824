package vfs_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

var errInjected = errors.New("injected")

// tour does one operation of every kind and returns the first error.
func tour(fs vfs.FS) error {
	if err := fs.MkdirAll("/store/d"); err != nil {
		return err
	}
	f, err := fs.Create("/store/d/a")
	if err != nil {
		return err
	}
	db, err := fs.OpenDB("/store/db")
	if err != nil {
		return err
	}
	steps := []func() error{
		func() error { return f.Allocate(0, 4*sector) },
		func() error { _, err := f.WriteAt(sectors("a"), 0); return err },
		func() error { _, err := f.WriteVecAt([][]byte{sectors("b"), sectors("c")}, sector); return err },
		func() error { return f.PunchHole(0, sector) },
		func() error { return f.Truncate(3 * sector) },
		f.Sync,
		func() error { return fs.Rename("/store/d/a", "/store/d/b") },
		func() error { return fs.Link("/store/d/b", "/store/d/c") },
		func() error { return fs.SyncDir("/store/d") },
		func() error { return putOne(db, "k") },
		func() error { return fs.Remove("/store/d/b") },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

const tourLength = 13

var allOps = []vfs.Op{
	vfs.OpMkdir, vfs.OpCreate, vfs.OpAllocate, vfs.OpWrite, vfs.OpWriteVec, vfs.OpPunchHole,
	vfs.OpTruncate, vfs.OpSync, vfs.OpRename, vfs.OpLink, vfs.OpSyncDir, vfs.OpCommit, vfs.OpRemove,
}

func TestEveryKindIsCounted(t *testing.T) {
	f := vfs.NewFault(memWith(t, "/store"))
	must(t, tour(f))
	if got := f.Count(); got != tourLength {
		t.Errorf("%d operations, want %d:\n%s", got, tourLength, f.Trace())
	}
	for _, op := range allOps {
		if got := f.Count(op); got != 1 {
			t.Errorf("%v: counted %d times, want once", op, got)
		}
	}
	if got := f.Count(vfs.OpSync, vfs.OpSyncDir); got != 2 {
		t.Errorf("two kinds: counted %d, want 2", got)
	}
}

func TestFailAtFailsThatOperationOnce(t *testing.T) {
	for k := int64(1); k <= tourLength; k++ {
		f := vfs.NewFault(memWith(t, "/store"))
		f.FailAt(k, errInjected)
		if err := tour(f); !errors.Is(err, errInjected) {
			t.Errorf("operation %d: got %v, want the injected error", k, err)
		}
		if got := f.Count(); got != k {
			t.Errorf("operation %d failed, but the tour ended after %d:\n%s", k, got, f.Trace())
		}
		if err := f.MkdirAll("/store/x"); err != nil {
			t.Errorf("after operation %d failed once: %v", k, err)
		}
	}
}

func TestFailAtByKind(t *testing.T) {
	for i, op := range allOps {
		f := vfs.NewFault(memWith(t, "/store"))
		f.FailAt(1, errInjected, op)
		if err := tour(f); !errors.Is(err, errInjected) || f.Count(op) != 1 || f.Count() != int64(i+1) {
			t.Errorf("%v: got %v after %d operations:\n%s", op, err, f.Count(), f.Trace())
		}
	}
}

// What streams is written as vectors are, and fails as they do.
func TestStreamingIsAWriteOfVectors(t *testing.T) {
	f := vfs.NewFault(memWith(t, "/store"))
	file, err := f.Create("/store/a")
	must(t, err)
	f.FailAt(1, errInjected, vfs.OpWriteVec)
	if _, err := file.StreamVecAt([][]byte{sectors("b"), sectors("c")}, 0); !errors.Is(err, errInjected) || f.Count(vfs.OpWriteVec) != 1 {
		t.Errorf("got %v after %d writes of vectors, want the injected error", err, f.Count(vfs.OpWriteVec))
	}
}

func TestFailFromFailsFromThenOn(t *testing.T) {
	m := memWith(t, "/store")
	f := vfs.NewFault(m)
	file, err := f.Create("/store/a")
	must(t, err)
	f.FailFrom(2, vfs.ErrNoSpace, vfs.OpWrite, vfs.OpAllocate)
	_, err = file.WriteAt([]byte("a"), 0)
	must(t, err)
	for range 3 {
		if _, err := file.WriteAt([]byte("b"), 0); !errors.Is(err, vfs.ErrNoSpace) {
			t.Fatalf("write: got %v, want ErrNoSpace", err)
		}
		if err := file.Allocate(0, 10); !errors.Is(err, vfs.ErrNoSpace) {
			t.Fatalf("allocate: got %v, want ErrNoSpace", err)
		}
		must(t, file.Sync()) // not one of the kinds
	}
	if got := namesIn(m); got != "a=a" {
		t.Errorf("a failing write was done: %s", got)
	}
	f.Mend()
	_, err = file.WriteAt([]byte("b"), 0)
	must(t, err, file.Allocate(0, 10))
}

func TestCrashAtEndsEverything(t *testing.T) {
	for k := int64(1); k <= tourLength; k++ {
		f := vfs.NewFault(memWith(t, "/store"))
		before, err := f.Create("/store/before")
		must(t, err)
		lock, err1 := f.Lock("/store/lock")
		db, err2 := f.OpenDB("/store/early")
		must(t, err1, err2)
		f.CrashAt(f.Count() + k)
		if err := tour(f); !errors.Is(err, vfs.ErrCrashed) || !f.Crashed() {
			t.Fatalf("operation %d: got %v, want ErrCrashed", k, err)
		}
		nothing := func(kv.Tx) error { return nil }
		later := map[string]func() error{
			"tour":     func() error { return tour(f) },
			"read":     func() error { _, err := before.ReadAt(make([]byte, 1), 0); return err },
			"try":      func() error { _, err := before.TryReadAt(make([]byte, 1), 0); return err },
			"sync":     before.Sync,
			"size":     func() error { _, err := before.Size(); return err },
			"nextdata": func() error { _, _, err := before.NextData(0); return err },
			"close":    before.Close,
			"open":     func() error { _, err := f.Open("/store/before"); return err },
			"readonly": func() error { _, err := f.OpenReadOnly("/store/before"); return err },
			"stat":     func() error { _, err := f.Stat("/store"); return err },
			"readdir":  func() error { _, err := f.ReadDir("/store"); return err },
			"remove":   func() error { return f.RemoveAll("/store") },
			"space":    func() error { _, _, err := f.Space("/"); return err },
			"lock":     func() error { _, err := f.Lock("/store/other"); return err },
			"unlock":   lock.Close,
			"opendb":   func() error { _, err := f.OpenDB("/store/other"); return err },
			"view":     func() error { return db.View(nothing) },
			"update":   func() error { return db.Update(nothing) },
			"closedb":  db.Close,
		}
		for name, call := range later {
			if err := call(); !errors.Is(err, vfs.ErrCrashed) {
				t.Errorf("%s after the crash at %d: got %v, want ErrCrashed", name, k, err)
			}
		}
	}
}

// A torn crash leaves of a write any part that begins at its beginning, of a
// sync or a commit all or nothing; without tearing nothing is done.
func TestTornCrash(t *testing.T) {
	run := func(rng *rand.Rand, op vfs.Op) *vfs.Mem {
		m := memWith(t, "/store")
		f := vfs.NewFault(m)
		file, err1 := f.Create("/store/a")
		db, err2 := f.OpenDB("/store/db")
		must(t, err1, err2, f.SyncDir("/store"))
		if rng == nil {
			f.CrashAt(1, op)
		} else {
			f.CrashTornAt(1, rng, op)
		}
		_, err := file.WriteVecAt([][]byte{[]byte("ab"), []byte("c")}, 0)
		if err == nil {
			err = file.Sync()
		}
		if err == nil {
			err = putOne(db, "k")
		}
		if !errors.Is(err, vfs.ErrCrashed) {
			t.Fatalf("%v: got %v, want ErrCrashed", op, err)
		}
		return m
	}
	looks := map[vfs.Op]struct {
		look func(m *vfs.Mem) string
		torn []string
	}{
		vfs.OpWriteVec: {
			look: func(m *vfs.Mem) string { s, _ := contentOf(m.KillClone(), "/store/a"); return s },
			torn: []string{"", "a", "ab", "abc"},
		},
		vfs.OpSync: {
			look: func(m *vfs.Mem) string {
				s, _ := contentOf(m.CrashWith(nil, vfs.CrashOptions{LoseAll: true}), "/store/a")
				return s
			},
			torn: []string{"", "abc"},
		},
		vfs.OpCommit: {
			look: func(m *vfs.Mem) string { return keysOf(t, m.KillClone(), "/store/db") },
			torn: []string{"", "k"},
		},
	}
	for op, c := range looks {
		if got := c.look(run(nil, op)); got != "" {
			t.Errorf("%v: a plain crash left %q", op, got)
		}
		found := map[string]int{}
		for seed := range uint64(60) {
			found[c.look(run(rand.New(rand.NewPCG(seed, 3)), op))]++
		}
		expectOutcomes(t, found, c.torn...)
	}
}

// What a test arms by a number that others pass meanwhile comes nevertheless.
func TestWhatIsArmedLate(t *testing.T) {
	f := vfs.NewFault(memWith(t, "/store"))
	count := f.Count()
	file, err := f.Create("/store/a") // somebody else
	must(t, err, f.SyncDir("/store"))
	f.FailAfter(2, errInjected, vfs.OpSync)
	must(t, file.Sync())
	if err := file.Sync(); !errors.Is(err, errInjected) {
		t.Errorf("the second sync from then on: %v, want the injected error", err)
	}
	must(t, file.Sync())
	f.CrashAt(count + 1)
	if err := file.Sync(); !errors.Is(err, vfs.ErrCrashed) || !f.Crashed() {
		t.Errorf("after a crash that was to be before: %v, want ErrCrashed", err)
	}
}

// Whoever repeats a failed Sync and believes it loses data here as on Linux.
func TestSyncAfterAFailedSyncHelpsNothing(t *testing.T) {
	m := memWith(t, "/store")
	f := vfs.NewFault(m)
	file, err := f.Create("/store/a")
	must(t, err, f.SyncDir("/store"))
	_, err = file.WriteAt(sectors("aa"), 0)
	must(t, err, file.Sync())
	_, err = file.WriteAt(sectors("bb"), 0)
	must(t, err)
	f.FailAfter(1, errInjected, vfs.OpSync)
	if err := file.Sync(); !errors.Is(err, errInjected) {
		t.Fatalf("got %v, want the injected error", err)
	}
	must(t, file.Sync())
	look := func(after *vfs.Mem) string { return letters(after, "/store/a") }
	expectOutcomes(t, outcomes(m.KillClone(), look), "aa", "ab", "ba", "bb")
	// What is written again is a new write, and a Sync of it counts.
	_, err = file.WriteAt(sectors("c"), 0)
	must(t, err, file.Sync())
	expectOutcomes(t, outcomes(m, look), "ca", "cb")
}

func TestTraceNamesTheLastOperations(t *testing.T) {
	f := vfs.NewFault(memWith(t, "/store"))
	file, err := f.Create("/store/a")
	must(t, err)
	for i := range 100 {
		_, err := file.WriteAt([]byte("xy"), int64(i))
		must(t, err)
	}
	f.CrashAt(f.Count() + 1)
	_ = file.Sync()
	lines := strings.Split(f.Trace(), "\n")
	if len(lines) != 64 {
		t.Fatalf("%d lines, want the last 64", len(lines))
	}
	if got, want := lines[62], "#101 write /store/a [99, 101)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := lines[63], fmt.Sprintf("#102 sync /store/a: %v", vfs.ErrCrashed); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
