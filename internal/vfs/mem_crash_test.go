package vfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

const sector = 512

// outcomes crashes one state with many seeds and counts what look finds.
func outcomes(m *vfs.Mem, look func(after *vfs.Mem) string) map[string]int {
	found := map[string]int{}
	for seed := range uint64(300) {
		found[look(m.Crash(rand.New(rand.NewPCG(seed, 1))))]++
	}
	return found
}

// expectOutcomes checks that exactly these were found.
func expectOutcomes(t *testing.T, found map[string]int, want ...string) {
	t.Helper()
	got := slices.Sorted(maps.Keys(found))
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("crashes left %q, want %q", got, want)
	}
}

// syncedFile makes a file whose name and content are durable.
func syncedFile(t *testing.T, m *vfs.Mem, name, content string) vfs.File {
	t.Helper()
	f, err := m.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), m.SyncDir("/store")); err != nil {
		t.Fatal(err)
	}
	return f
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// letters shows a file with one letter for each sector, '.' for zeroes.
func letters(m *vfs.Mem, name string) string {
	content, err := contentOf(m, name)
	if err != nil {
		return err.Error()
	}
	var s strings.Builder
	for part := range slices.Chunk([]byte(content), sector) {
		if bytes.Count(part, part[:1]) != len(part) {
			return "a sector is torn"
		}
		if part[0] == 0 {
			part[0] = '.'
		}
		s.WriteByte(part[0])
	}
	return s.String()
}

func sectors(letters string) []byte {
	var p []byte
	for _, l := range []byte(letters) {
		p = append(p, bytes.Repeat([]byte{l}, sector)...)
	}
	return p
}

func TestUnsyncedSectorsSurviveIndependently(t *testing.T) {
	m := memWith(t, "/store")
	f := syncedFile(t, m, "/store/a", string(sectors("aaa")))
	_, err := f.WriteAt(sectors("bbb"), 0)
	must(t, err)
	found := outcomes(m, func(after *vfs.Mem) string { return letters(after, "/store/a") })
	expectOutcomes(t, found, "aaa", "aab", "aba", "abb", "baa", "bab", "bba", "bbb")
}

func TestALaterSyncKeepsTheLatestVersion(t *testing.T) {
	m := memWith(t, "/store")
	f := syncedFile(t, m, "/store/a", string(sectors("a")))
	_, err1 := f.WriteAt(sectors("b"), 0)
	_, err2 := f.WriteAt(sectors("c"), 0)
	must(t, err1, err2)
	// Either write may have been the last that reached the disk.
	before := outcomes(m.KillClone(), func(after *vfs.Mem) string { return letters(after, "/store/a") })
	expectOutcomes(t, before, "a", "b", "c")
	must(t, f.Sync())
	expectOutcomes(t, outcomes(m, func(after *vfs.Mem) string { return letters(after, "/store/a") }), "c")
}

// A write that begins inside a sector takes the bytes around it along: they
// are one sector in the page cache.
func TestUnalignedWritesTearAtSectors(t *testing.T) {
	m := memWith(t, "/store")
	f := syncedFile(t, m, "/store/a", strings.Repeat("a", 2*sector))
	_, err := f.WriteAt([]byte("bbbb"), sector-2)
	must(t, err)
	found := outcomes(m, func(after *vfs.Mem) string {
		content, err := contentOf(after, "/store/a")
		if err != nil {
			return err.Error()
		}
		return content[sector-2 : sector+2]
	})
	expectOutcomes(t, found, "aaaa", "bbaa", "aabb", "bbbb")
}

func TestAnExtensionMayLoseItsSize(t *testing.T) {
	m := memWith(t, "/store")
	f := syncedFile(t, m, "/store/a", string(sectors("a")))
	_, err := f.WriteAt(sectors("b"), sector)
	must(t, err)
	found := outcomes(m, func(after *vfs.Mem) string { return letters(after, "/store/a") })
	expectOutcomes(t, found, "a", "a.", "ab")
}

// Data that came to disk without the size that covers it must not come back
// when the file grows again.
func TestDataBeyondALostSizeIsGone(t *testing.T) {
	m := memWith(t, "/store")
	f := syncedFile(t, m, "/store/a", string(sectors("a")))
	_, err := f.WriteAt(sectors("bb"), sector/2)
	must(t, err)
	for seed := range uint64(100) {
		after := m.Crash(rand.New(rand.NewPCG(seed, 1)))
		g, err := after.Open("/store/a")
		must(t, err)
		size, err := g.Size()
		must(t, err, g.Truncate(10*sector))
		content, err := contentOf(after, "/store/a")
		must(t, err)
		if strings.Trim(content[size:], "\x00") != "" {
			t.Fatalf("seed %d: bytes beyond the size %d came back", seed, size)
		}
	}
}

func TestTruncateAndAllocateSurviveWhollyOrNot(t *testing.T) {
	m := memWith(t, "/store")
	f := syncedFile(t, m, "/store/a", string(sectors("aaa")))
	must(t, f.Truncate(sector))
	cut := outcomes(m.KillClone(), func(after *vfs.Mem) string { return letters(after, "/store/a") })
	expectOutcomes(t, cut, "aaa", "a")
	must(t, f.Sync(), f.Allocate(0, 3*sector))
	grown := outcomes(m, func(after *vfs.Mem) string { return letters(after, "/store/a") })
	expectOutcomes(t, grown, "a", "a..")
}

func TestPunchHoleMaySurviveInPart(t *testing.T) {
	m := memWith(t, "/store")
	f := syncedFile(t, m, "/store/a", string(sectors("aa")))
	must(t, f.PunchHole(0, 2*sector))
	found := outcomes(m, func(after *vfs.Mem) string { return letters(after, "/store/a") })
	expectOutcomes(t, found, "aa", "a.", ".a", "..")
}

func TestKeepAllAndLoseAll(t *testing.T) {
	m := memWith(t, "/store")
	f := syncedFile(t, m, "/store/a", string(sectors("aa")))
	_, err1 := f.WriteAt(sectors("bbb"), 0)
	_, err2 := m.Create("/store/b")
	must(t, err1, err2)
	for opts, want := range map[vfs.CrashOptions]string{
		{KeepAll: true}: "bbb [a b]",
		{LoseAll: true}: "aa [a]",
	} {
		after := m.CrashWith(nil, opts)
		names, err := after.ReadDir("/store")
		must(t, err)
		if got := fmt.Sprint(letters(after, "/store/a"), " ", names); got != want {
			t.Errorf("%+v: %s, want %s", opts, got, want)
		}
	}
}

// namesIn shows the names below /store, with their first byte.
func namesIn(after *vfs.Mem) string {
	names, err := after.ReadDir("/store")
	if err != nil {
		return err.Error()
	}
	var list []string
	for _, name := range names {
		content, err := contentOf(after, "/store/"+name)
		if err != nil {
			return err.Error()
		}
		list = append(list, name+"="+content)
	}
	return strings.Join(list, " ")
}

func TestAFileNeedsItsNameSynced(t *testing.T) {
	m := memWith(t, "/store")
	f, err := m.Create("/store/a")
	must(t, err, f.Sync())
	expectOutcomes(t, outcomes(m.KillClone(), namesIn), "", "a=")
	must(t, m.SyncDir("/store"))
	expectOutcomes(t, outcomes(m, namesIn), "a=")
}

func TestARemovedNameMayComeBack(t *testing.T) {
	m := memWith(t, "/store")
	syncedFile(t, m, "/store/a", "1")
	must(t, m.Remove("/store/a"))
	expectOutcomes(t, outcomes(m.KillClone(), namesIn), "", "a=1")
	must(t, m.SyncDir("/store"))
	expectOutcomes(t, outcomes(m, namesIn), "")
}

func TestRenameIsAtomic(t *testing.T) {
	m := memWith(t, "/store")
	syncedFile(t, m, "/store/current", "1")
	syncedFile(t, m, "/store/next", "2")
	must(t, m.Rename("/store/next", "/store/current"))
	expectOutcomes(t, outcomes(m.KillClone(), namesIn), "current=1 next=2", "current=2")
	must(t, m.SyncDir("/store"))
	expectOutcomes(t, outcomes(m, namesIn), "current=2")
}

// The mistake that write-sync-rename exists to avoid is visible: without the
// sync the new name may lead to a file without content.
func TestRenameWithoutSyncMayLoseTheContent(t *testing.T) {
	m := memWith(t, "/store")
	syncedFile(t, m, "/store/current", "1")
	f, err := m.Create("/store/next")
	must(t, err)
	_, err = f.WriteAt([]byte("2"), 0)
	must(t, err, m.Rename("/store/next", "/store/current"), m.SyncDir("/store"))
	expectOutcomes(t, outcomes(m, namesIn), "current=", "current=2", "current=\x00")
}

func TestAFileRenamedTwiceHasOneName(t *testing.T) {
	m := memWith(t, "/store")
	syncedFile(t, m, "/store/a", "1")
	must(t, m.Rename("/store/a", "/store/b"), m.Rename("/store/b", "/store/c"))
	expectOutcomes(t, outcomes(m, namesIn), "a=1", "b=1", "c=1")
}

// A move out of a directory that is then removed survives if the removal
// does: else the file would be lost.
func TestAMoveOutOfARemovedDirectoryIsNotLost(t *testing.T) {
	m := memWith(t, "/store")
	must(t, m.MkdirAll("/old"))
	f, err := m.Create("/old/a")
	must(t, err, f.Sync(), m.SyncDir("/old"), m.SyncDir("/"))
	must(t, m.Rename("/old/a", "/store/a"), m.Remove("/old"))
	found := outcomes(m, func(after *vfs.Mem) string {
		_, errOld := after.Stat("/old/a")
		_, errNew := after.Stat("/store/a")
		_, errDir := after.Stat("/old")
		return fmt.Sprintf("old %v new %v directory %v", errOld == nil, errNew == nil, errDir == nil)
	})
	expectOutcomes(t, found,
		"old true new false directory true",
		"old false new true directory true",
		"old false new true directory false")
}

// SyncDir of one directory must not leave a moved file in both.
func TestAMoveIsSyncedInBothDirectories(t *testing.T) {
	for _, synced := range []string{"/store", "/other"} {
		m := memWith(t, "/store")
		must(t, m.MkdirAll("/other"), m.SyncDir("/"))
		f, err := m.Create("/store/a")
		must(t, err, f.Sync(), m.Rename("/store/a", "/other/a"), m.SyncDir(synced))
		found := outcomes(m, func(after *vfs.Mem) string {
			_, errOld := after.Stat("/store/a")
			_, errNew := after.Stat("/other/a")
			return fmt.Sprint(errOld == nil, errNew == nil)
		})
		expectOutcomes(t, found, "false true")
	}
}

// A file of two names is one file after a crash, and stays as long as it has one.
func TestALinkedFileIsOne(t *testing.T) {
	m := memWith(t, "/store")
	f := syncedFile(t, m, "/store/a", "1")
	must(t, m.Link("/store/a", "/store/b"))
	expectOutcomes(t, outcomes(m.KillClone(), namesIn), "a=1", "a=1 b=1")
	must(t, m.SyncDir("/store"))
	_, err := f.WriteAt([]byte("2"), 0)
	must(t, err)
	expectOutcomes(t, outcomes(m.KillClone(), namesIn), "a=1 b=1", "a=2 b=2")
	must(t, m.Remove("/store/a"), f.Close())
	expectOutcomes(t, outcomes(m, namesIn), "b=1", "b=2", "a=1 b=1", "a=2 b=2")
}

func TestADirectoryIsLostWithWhatIsInIt(t *testing.T) {
	m := vfs.NewMem()
	must(t, m.MkdirAll("/store"))
	f, err := m.Create("/store/a")
	must(t, err, f.Sync(), m.SyncDir("/store"))
	found := outcomes(m, namesIn)
	if len(found) != 2 || found["a="] == 0 {
		t.Fatalf("crashes left %v, want the file, or not even its directory", found)
	}
}

func TestACrashedFileSystemRefusesEverything(t *testing.T) {
	m := memWith(t, "/store")
	f := syncedFile(t, m, "/store/a", "1")
	lock, err1 := m.Lock("/store/lock")
	db, err2 := m.OpenDB("/store/db")
	must(t, err1, err2)
	m.CrashWith(nil, vfs.CrashOptions{KeepAll: true})
	nothing := func(kv.Tx) error { return nil }
	calls := map[string]func() error{
		"create":    func() error { _, err := m.Create("/store/b"); return err },
		"open":      func() error { _, err := m.Open("/store/a"); return err },
		"remove":    func() error { return m.Remove("/store/a") },
		"removeall": func() error { return m.RemoveAll("/store") },
		"rename":    func() error { return m.Rename("/store/a", "/store/b") },
		"mkdir":     func() error { return m.MkdirAll("/store/d") },
		"readdir":   func() error { _, err := m.ReadDir("/store"); return err },
		"stat":      func() error { _, err := m.Stat("/store/a"); return err },
		"syncdir":   func() error { return m.SyncDir("/store") },
		"lock":      func() error { _, err := m.Lock("/store/other"); return err },
		"unlock":    lock.Close,
		"opendb":    func() error { _, err := m.OpenDB("/store/other"); return err },
		"update":    func() error { return db.Update(nothing) },
		"view":      func() error { return db.View(nothing) },
		"closedb":   db.Close,
		"space":     func() error { _, _, err := m.Space("/"); return err },
		"read":      func() error { _, err := f.ReadAt(make([]byte, 1), 0); return err },
		"try":       func() error { _, err := f.TryReadAt(make([]byte, 1), 0); return err },
		"write":     func() error { _, err := f.WriteAt([]byte("x"), 0); return err },
		"writevec":  func() error { _, err := f.WriteVecAt(nil, 0); return err },
		"sync":      f.Sync,
		"truncate":  func() error { return f.Truncate(0) },
		"allocate":  func() error { return f.Allocate(0, 1) },
		"punch":     func() error { return f.PunchHole(0, 1) },
		"nextdata":  func() error { _, _, err := f.NextData(0); return err },
		"size":      func() error { _, err := f.Size(); return err },
		"close":     f.Close,
		"corrupt":   func() error { return m.Corrupt("/store/a", 0, 1) },
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, vfs.ErrCrashed) {
			t.Errorf("%s: got %v, want ErrCrashed", name, err)
		}
	}
}

func putOne(db kv.DB, key string) error {
	return db.Update(func(tx kv.Tx) error { return tx.Put("b", []byte(key), nil) })
}

func keysOf(t *testing.T, fs vfs.FS, name string) string {
	t.Helper()
	db, err := fs.OpenDB(name)
	must(t, err)
	var keys []string
	must(t, db.View(func(tx kv.Tx) error {
		tx.Range("b", nil, func(k, _ []byte) bool { keys = append(keys, string(k)); return true })
		return nil
	}))
	must(t, db.Close())
	return strings.Join(keys, " ")
}

func TestDatabasesSurviveInTheirCommittedState(t *testing.T) {
	m := memWith(t, "/store")
	db, err := m.OpenDB("/store/db")
	must(t, err, putOne(db, "a"))
	if err := db.Update(func(tx kv.Tx) error { _ = tx.Put("b", []byte("no"), nil); return errors.New("stop") }); err == nil {
		t.Fatal("a failed update reported success")
	}
	killed := m.KillClone()
	must(t, putOne(db, "b"))
	if got := keysOf(t, killed, "/store/db"); got != "a" {
		t.Errorf("after the kill: %q, want a", got)
	}
	after := m.CrashWith(nil, vfs.CrashOptions{LoseAll: true})
	if got := keysOf(t, after, "/store/db"); got != "a b" {
		t.Errorf("after the crash: %q, want a b", got)
	}
}

// A crash in the middle of an update either has its change or did not
// acknowledge it.
func TestCrashDuringAnUpdate(t *testing.T) {
	m := memWith(t, "/store")
	db, err := m.OpenDB("/store/db")
	must(t, err)
	var after *vfs.Mem
	err = db.Update(func(tx kv.Tx) error {
		after = m.CrashWith(nil, vfs.CrashOptions{KeepAll: true})
		return tx.Put("b", []byte("a"), nil)
	})
	if !errors.Is(err, vfs.ErrCrashed) {
		t.Errorf("got %v, want ErrCrashed", err)
	}
	if got := keysOf(t, after, "/store/db"); got != "" {
		t.Errorf("the database has %q from before its commit", got)
	}
}

func TestKillReleasesLocksAndKeepsWhatWasWritten(t *testing.T) {
	m := memWith(t, "/store")
	f := syncedFile(t, m, "/store/a", string(sectors("a")))
	lock, err1 := m.Lock("/store/lock")
	db, err2 := m.OpenDB("/store/db")
	_, err3 := f.WriteAt(sectors("b"), 0)
	must(t, err1, err2, err3)
	killed := m.KillClone()
	if got := letters(killed, "/store/a"); got != "b" {
		t.Errorf("after the kill the file has %q, want what was written", got)
	}
	_, err1 = killed.Lock("/store/lock")
	_, err2 = killed.OpenDB("/store/db")
	must(t, err1, err2)
	// The original goes on, and the two do not meet.
	_, err := f.WriteAt(sectors("c"), 0)
	must(t, err, lock.Close(), db.Close())
	if got := letters(killed, "/store/a"); got != "b" {
		t.Errorf("a write to the original reached the clone: %q", got)
	}
	// What was not synced before the kill can still be lost.
	found := outcomes(killed, func(after *vfs.Mem) string { return letters(after, "/store/a") })
	expectOutcomes(t, found, "a", "b")
}

func TestTheSameSeedGivesTheSameCrash(t *testing.T) {
	build := func() *vfs.Mem {
		m := memWith(t, "/store")
		for i := range 20 {
			f, err := m.Create(fmt.Sprintf("/store/%02d", i))
			must(t, err)
			_, err = f.WriteAt(sectors("abcdefgh"), int64(i*100))
			must(t, err)
		}
		return m
	}
	shape := func(m *vfs.Mem) string {
		names, err := m.ReadDir("/store")
		must(t, err)
		all := ""
		for _, name := range names {
			content, err := contentOf(m, "/store/"+name)
			must(t, err)
			all += name + content
		}
		return all
	}
	seen := map[string]bool{}
	for seed := range uint64(20) {
		a := shape(build().Crash(rand.New(rand.NewPCG(seed, 7))))
		b := shape(build().Crash(rand.New(rand.NewPCG(seed, 7))))
		if a != b {
			t.Fatalf("seed %d gave two outcomes", seed)
		}
		seen[a] = true
	}
	if len(seen) < 5 {
		t.Errorf("20 seeds gave only %d outcomes", len(seen))
	}
}

func TestCapacity(t *testing.T) {
	m := memWith(t, "/store")
	m.SetCapacity(4 * sector)
	f, err := m.Create("/store/a")
	must(t, err)
	must(t, f.Allocate(0, 3*sector))
	free := func() int64 { _, n, err := m.Space("/"); must(t, err); return n / sector }
	if free() != 1 {
		t.Fatalf("%d sectors free after 3 of 4 were allocated", free())
	}
	if err := f.Allocate(0, 5*sector); !errors.Is(err, vfs.ErrNoSpace) {
		t.Fatalf("allocate: got %v, want ErrNoSpace", err)
	}
	_, err = f.WriteAt(sectors("aaa"), 0) // has its space
	must(t, err)
	n, err := f.WriteAt(sectors("bb"), 3*sector)
	if !errors.Is(err, vfs.ErrNoSpace) || n != sector {
		t.Fatalf("write: %d, %v; want what fitted and ErrNoSpace", n, err)
	}
	must(t, f.PunchHole(0, 2*sector))
	if free() != 2 {
		t.Fatalf("%d sectors free after 2 were punched", free())
	}
	must(t, f.Truncate(3*sector))
	if free() != 3 {
		t.Fatalf("%d sectors free after one was cut off", free())
	}
	must(t, m.Remove("/store/a"))
	if free() != 3 {
		t.Fatalf("%d sectors free while the removed file is open", free())
	}
	must(t, f.Close())
	if free() != 4 {
		t.Fatalf("%d sectors free when nothing is left", free())
	}
	// The removal was not synced, so the file may be back after a crash, and
	// its space with it; its sectors never were synced.
	_, n2, err := m.CrashWith(nil, vfs.CrashOptions{LoseAll: true}).Space("/")
	must(t, err)
	if n2 != 4*sector {
		t.Fatalf("%d bytes free after the crash", n2)
	}
}

func TestReplacedFilesGiveTheirSpaceBack(t *testing.T) {
	m := memWith(t, "/store")
	m.SetCapacity(10 * sector)
	must(t, syncedFile(t, m, "/store/a", string(sectors("aa"))).Close())
	must(t, syncedFile(t, m, "/store/b", string(sectors("bbb"))).Close())
	must(t, m.Rename("/store/a", "/store/b"))
	if _, free, err := m.Space("/"); err != nil || free != 8*sector {
		t.Fatalf("%d bytes free, %v; want all but the renamed file's", free, err)
	}
	// Without SyncDir both files may be back.
	after := m.CrashWith(nil, vfs.CrashOptions{LoseAll: true})
	if _, free, err := after.Space("/"); err != nil || free != 5*sector {
		t.Fatalf("%d bytes free after the crash, %v; want 5 sectors in use", free, err)
	}
}

func TestCorruptReachesWhatIsSeenAndWhatIsDurable(t *testing.T) {
	m := memWith(t, "/store")
	f := syncedFile(t, m, "/store/a", strings.Repeat("a", 2*sector))
	_, err := f.WriteAt(sectors("b"), sector)
	must(t, err, m.Corrupt("/store/a", sector-1, 2))
	notA, notB := string([]byte{^byte('a')}), string([]byte{^byte('b')})
	middle := func(m *vfs.Mem) string {
		content, err := contentOf(m, "/store/a")
		must(t, err)
		return content[sector-2 : sector+2]
	}
	if got, want := middle(m), "a"+notA+notB+"b"; got != want {
		t.Errorf("seen: %q, want %q", got, want)
	}
	expectOutcomes(t, outcomes(m, middle), "a"+notA+notA+"a", "a"+notA+notB+"b")
	if err := memWith(t, "/store").Corrupt("/store/none", 0, 1); !errors.Is(err, vfs.ErrNotExist) {
		t.Errorf("a missing file: got %v, want ErrNotExist", err)
	}
}

func TestDropCacheMakesTryReadWait(t *testing.T) {
	f := syncedFile(t, memWith(t, "/store"), "/store/a", "abc")
	buf := make([]byte, 3)
	try := func() bool { done, err := f.TryReadAt(buf, 0); must(t, err); return done }
	if !try() {
		t.Error("cached data was not read")
	}
	f.DropCache()
	if try() {
		t.Error("read without waiting what is not cached")
	}
	_, err := f.ReadAt(buf, 0)
	must(t, err)
	if !try() {
		t.Error("a read did not fill the cache")
	}
}

// However a crash and a commit race, what was acknowledged is there after it.
func TestAcknowledgedCommitsSurviveARacingCrash(t *testing.T) {
	for seed := range uint64(300) {
		m := memWith(t, "/store")
		db, err := m.OpenDB("/store/db")
		must(t, err)
		acknowledged := make(chan string, 1) // the first is announced at once
		var last string
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%06d", i)
				if putOne(db, key) != nil {
					return
				}
				last = key
				if i == 0 {
					acknowledged <- key
				}
			}
		})
		<-acknowledged
		after := m.Crash(rand.New(rand.NewPCG(seed, 1)))
		wg.Wait()
		if keys := keysOf(t, after, "/store/db"); !strings.Contains(keys, last) {
			t.Fatalf("round %d: commit %s was acknowledged and is lost", seed, last)
		}
	}
}
