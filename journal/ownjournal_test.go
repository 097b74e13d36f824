package journal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// newOwnWorld is a world whose journal has a directory of its own.
func newOwnWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	return newWorld(t, seed, ownJournal(shortJournal))
}

func namesIn(t *testing.T, fs vfs.FS, dir string) []string {
	t.Helper()
	names, err := fs.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestWhatLivesWhere(t *testing.T) {
	w := newOwnWorld(t, 1)
	if err := errors.Join(w.write(), w.flush(), w.s.Close()); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(namesIn(t, w.mem, worldDir), " "), "base.crc base.img catalog.db lock volume.json"; got != want {
		t.Errorf("the store's directory holds %s, want %s", got, want)
	}
	got := namesIn(t, w.mem, worldJournalDir)
	if !slices.Contains(got, "journal.json") || !slices.Contains(got, "lock") || !slices.ContainsFunc(got, func(name string) bool { return strings.HasSuffix(name, ".seg") }) {
		t.Errorf("the journal's directory holds %q", got)
	}
	report, err := Verify(context.Background(), w.cfg)
	if err != nil || !report.OK() || report.JournalDir != worldJournalDir || len(report.Segments) == 0 {
		t.Errorf("verify: %+v, %v", report, err)
	}
	for _, s := range report.Segments {
		if !strings.HasPrefix(s.File, journalDir+"/") {
			t.Errorf("segment %s", s.File)
		}
	}
	var out bytes.Buffer
	if err := Dump(context.Background(), w.cfg, &out, DumpOptions{Records: true}); err != nil || !strings.Contains(out.String(), "write") {
		t.Errorf("dump: %v\n%s", err, &out)
	}
}

// What is not the store's journal is never taken for one, nor changed.
func TestJournalDirectoryIsBoundToItsStore(t *testing.T) {
	damage := func(w *world, edit func(b []byte) []byte) error {
		name := worldJournalDir + "/journal.json"
		f, err := w.mem.Open(name)
		if err != nil {
			return err
		}
		size, err := f.Size()
		b := make([]byte, size)
		if err = errors.Join(err, readFull(f, b, 0), f.Close(), w.mem.Remove(name)); err != nil {
			return err
		}
		b = edit(b)
		if f, err = w.mem.Create(name); err != nil {
			return err
		}
		_, err = f.WriteAt(b, 0)
		return errors.Join(err, f.Close())
	}
	// other puts the journal of another store there.
	other := func(w *world, volume VolumeID) error {
		cfg := w.cfg
		cfg.FS, cfg.Dir = w.mem, "stores/other"
		if err := errors.Join(w.mem.Rename(worldJournalDir, "stores/moved"), Create(cfg, Spec{volume, worldVolumeBytes})); err != nil {
			return err
		}
		s, err := Open(cfg)
		if err != nil {
			return err
		}
		_, err = s.Write(make([]byte, SectorBytes), 0)
		return errors.Join(err, s.Close())
	}
	cases := map[string]struct {
		do   func(w *world) error
		want error
	}{
		"not given": {func(w *world) error { w.cfg.JournalDir = ""; return nil }, ErrNoJournal},
		"missing":   {func(w *world) error { return w.mem.Rename(worldJournalDir, "stores/moved") }, ErrNoJournal},
		"empty": {func(w *world) error {
			return errors.Join(w.mem.Rename(worldJournalDir, "stores/moved"), w.mem.MkdirAll(worldJournalDir))
		}, ErrNoJournal},
		"unnamed":   {func(w *world) error { return w.mem.Remove(worldJournalDir + "/journal.json") }, ErrNoJournal},
		"foreign":   {func(w *world) error { return other(w, VolumeID{9}) }, ErrForeign},
		"swapped":   {func(w *world) error { return other(w, testVolume) }, ErrForeign},
		"not JSON":  {func(w *world) error { return damage(w, func([]byte) []byte { return []byte("x") }) }, ErrCorrupt},
		"cut short": {func(w *world) error { return damage(w, func(b []byte) []byte { return b[:len(b)/2] }) }, ErrCorrupt},
		"newer": {func(w *world) error {
			return damage(w, func(b []byte) []byte { return bytes.Replace(b, []byte(`"version": 1`), []byte(`"version": 2`), 1) })
		}, ErrVersion},
		"another id": {func(w *world) error {
			return damage(w, func(b []byte) []byte { return bytes.Replace(b, []byte(`"journal": "`), []byte(`"journal": "0`), 1) })
		}, ErrCorrupt},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newOwnWorld(t, 1)
			if err := errors.Join(w.write(), w.flush(), w.s.Close(), c.do(w)); err != nil {
				t.Fatal(err)
			}
			var before []string
			if names, err := w.mem.ReadDir(worldJournalDir); err == nil {
				before = names
			}
			w.mount(w.mem)
			if err := w.open(); !errors.Is(err, c.want) {
				t.Fatalf("open: %v, want %v", err, c.want)
			}
			report, err := Verify(context.Background(), w.cfg)
			if errors.Is(c.want, ErrNoJournal) != errors.Is(err, ErrNoJournal) || err == nil && report.OK() {
				t.Errorf("verify: %+v, %v", report.Damage, err)
			}
			if n := w.fault.Count(); n != 0 {
				t.Errorf("%d changes were made:\n%s", n, w.fault.Trace())
			}
			if after, _ := w.mem.ReadDir(worldJournalDir); !slices.Equal(before, after) {
				t.Errorf("the directory held %q, and holds %q", before, after)
			}
		})
	}
}

func TestJournalDirectoryOfAStoreThatHasNone(t *testing.T) {
	w := newWorld(t, 1, nil)
	mustClose(t, w.s)
	w.cfg.JournalDir = worldJournalDir
	if err := w.open(); !errors.Is(err, ErrForeign) {
		t.Errorf("open: %v, want ErrForeign", err)
	}
}

func TestJournalInsideOfItsStoreIsRefused(t *testing.T) {
	for _, dir := range []string{worldDir, worldDir + "/", worldDir + "/journal"} {
		cfg := Config{FS: vfs.NewMem(), Dir: worldDir, JournalDir: dir}
		if err := cfg.Validate(); err == nil {
			t.Errorf("%s is accepted", dir)
		}
	}
}

// A copy of the store's directory has a lock of its own, and the same journal.
func TestJournalDirectoryIsLocked(t *testing.T) {
	w := newOwnWorld(t, 1)
	cfg := w.cfg
	cfg.FS, cfg.Dir = w.mem, "stores/copy"
	if err := w.mem.MkdirAll(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	b, err := readSmall(&Config{FS: w.mem, Dir: worldDir}, volumeFile)
	if err = errors.Join(err, writeTemp(&cfg, volumeFile, b), publish(&cfg, volumeFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("open: %v, want ErrInUse", err)
	}
	mustClose(t, w.s)
	if _, err := Open(cfg); errors.Is(err, ErrInUse) {
		t.Errorf("open after the store was closed: %v", err)
	}
}

// A new store takes no directory that may be another one's journal.
func TestCreateTakesNoForeignJournal(t *testing.T) {
	for name, prepare := range map[string]func(w *world) error{
		"of a store": func(*world) error { return nil },
		"segments":   func(w *world) error { return w.mem.Remove(worldJournalDir + "/journal.json") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newOwnWorld(t, 1)
			if err := errors.Join(w.write(), w.s.Close(), prepare(w)); err != nil {
				t.Fatal(err)
			}
			before := namesIn(t, w.mem, worldJournalDir)
			for _, volume := range []VolumeID{testVolume, {9}} {
				cfg := w.cfg
				cfg.FS, cfg.Dir = w.mem, "stores/other"
				if err := Create(cfg, Spec{volume, worldVolumeBytes}); !errors.Is(err, ErrForeign) {
					t.Errorf("create: %v, want ErrForeign", err)
				}
			}
			if after := namesIn(t, w.mem, worldJournalDir); !slices.Equal(before, after) {
				t.Errorf("the directory held %q, and holds %q", before, after)
			}
		})
	}
}

// TestCreationThatCrashesTwice: whatever two attempts in a row leave, a third
// one makes the store, unless the second had.
func TestCreationThatCrashesTwice(t *testing.T) {
	make := func(mem *vfs.Mem, crashAt int64, chance *rand.Rand) (done bool) {
		fault := vfs.NewFault(mem)
		if crashAt > 0 {
			fault.CrashTornAt(crashAt, chance)
		}
		err := Create(Config{FS: fault, Dir: worldDir, JournalDir: worldJournalDir}, Spec{testVolume, worldVolumeBytes})
		if err != nil && !errors.Is(err, vfs.ErrCrashed) && !errors.Is(err, ErrExists) {
			t.Fatalf("crash at %d: %v\n%s", crashAt, err, fault.Trace())
		}
		return err == nil || errors.Is(err, ErrExists)
	}
	for k, done := int64(1), false; !done; k++ {
		chance := rand.New(rand.NewPCG(uint64(k), 11))
		mem := vfs.NewMem()
		makeParent(t, mem)
		done = make(mem, k, chance)
		for j, again := int64(1), false; !again; j++ {
			second := mem.Crash(chance)
			again = make(second, j, chance)
			third := second.Crash(chance)
			make(third, 0, nil)
			mustClose(t, mustOpen(t, Config{FS: third, Dir: worldDir, JournalDir: worldJournalDir}))
		}
	}
}

func TestAbortLeavesNoJournal(t *testing.T) {
	mem := vfs.NewMem()
	makeParent(t, mem)
	im, err := NewImport(Config{FS: mem, Dir: worldDir, JournalDir: worldJournalDir}, Spec{testVolume, worldVolumeBytes}, Position{}, nil)
	if err == nil {
		err = im.Abort()
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := namesIn(t, mem, worldJournalDir); !slices.Equal(got, []string{lockFile}) {
		t.Errorf("an import that was given up has left %q", got)
	}
}

func TestRemoveJournal(t *testing.T) {
	w := newOwnWorld(t, 1)
	if err := errors.Join(w.write(), w.flush()); err != nil {
		t.Fatal(err)
	}
	if err := RemoveJournal(w.mem, worldJournalDir, testVolume); !errors.Is(err, ErrInUse) {
		t.Errorf("of an open store: %v, want ErrInUse", err)
	}
	mustClose(t, w.s)
	if err := RemoveJournal(w.mem, worldJournalDir, VolumeID{9}); !errors.Is(err, ErrForeign) {
		t.Errorf("of another volume: %v, want ErrForeign", err)
	}
	mustClose(t, mustOpen(t, w.cfg))
	for range 2 {
		if err := RemoveJournal(w.mem, worldJournalDir, testVolume); err != nil {
			t.Fatal(err)
		}
	}
	if got := namesIn(t, w.mem, path.Dir(worldJournalDir)); !slices.Equal(got, []string{path.Base(worldDir)}) {
		t.Errorf("left: %q", got)
	}
	if err := errors.Join(w.mem.MkdirAll(worldJournalDir), w.mem.MkdirAll(worldJournalDir+"/somebody's")); err != nil {
		t.Fatal(err)
	}
	if err := RemoveJournal(w.mem, worldJournalDir, testVolume); err == nil {
		t.Error("somebody's files are removed")
	}
}

// A removal that is cut off can be repeated.
func TestRemoveJournalCrashAtEveryOperation(t *testing.T) {
	for k, done := int64(1), false; !done; k++ {
		w := newOwnWorld(t, 1)
		if err := errors.Join(w.write(), w.flush(), w.s.Close()); err != nil {
			t.Fatal(err)
		}
		chance := rand.New(rand.NewPCG(uint64(k), 12))
		w.mount(w.mem)
		w.fault.CrashTornAt(k, chance)
		err := RemoveJournal(w.fault, worldJournalDir, testVolume)
		if done = err == nil; !done && !errors.Is(err, vfs.ErrCrashed) {
			t.Fatal(err)
		}
		for range 8 {
			mem := w.mem.Crash(chance)
			if err := RemoveJournal(mem, worldJournalDir, testVolume); err != nil {
				t.Fatalf("operation %d: remove again: %v: %q", k, err, namesIn(t, mem, worldJournalDir))
			}
		}
	}
}

// twoDisks has one directory on a file system of its own.
type twoDisks struct {
	vfs.FS        // all else
	dir    string // below which it is
	fast   *vfs.Mem
}

func (d twoDisks) of(name string) vfs.FS {
	if name == d.dir || strings.HasPrefix(name, d.dir+"/") {
		return d.fast
	}
	return d.FS
}

func (d twoDisks) Create(name string) (vfs.File, error)             { return d.of(name).Create(name) }
func (d twoDisks) Open(name string) (vfs.File, error)               { return d.of(name).Open(name) }
func (d twoDisks) OpenReadOnly(name string) (vfs.File, error)       { return d.of(name).OpenReadOnly(name) }
func (d twoDisks) Remove(name string) error                         { return d.of(name).Remove(name) }
func (d twoDisks) RemoveAll(name string) error                      { return d.of(name).RemoveAll(name) }
func (d twoDisks) MkdirAll(name string) error                       { return d.of(name).MkdirAll(name) }
func (d twoDisks) ReadDir(name string) ([]string, error)            { return d.of(name).ReadDir(name) }
func (d twoDisks) Stat(name string) (int64, error)                  { return d.of(name).Stat(name) }
func (d twoDisks) SyncDir(name string) error                        { return d.of(name).SyncDir(name) }
func (d twoDisks) Lock(name string) (io.Closer, error)              { return d.of(name).Lock(name) }
func (d twoDisks) OpenDB(name string) (kv.DB, error)                { return d.of(name).OpenDB(name) }
func (d twoDisks) Space(name string) (total, free int64, err error) { return d.of(name).Space(name) }

func (d twoDisks) Rename(from, to string) error {
	if d.of(from) != d.of(to) {
		return errors.New("a rename between two file systems")
	}
	return d.of(from).Rename(from, to)
}

// onTwoDisks makes and opens a store whose journal is on a disk of its own.
func onTwoDisks(t *testing.T, change func(*Config)) (s *Store, base, fast *vfs.Mem) {
	t.Helper()
	base, fast = vfs.NewMem(), vfs.NewMem()
	makeParent(t, base)
	if err := fast.MkdirAll("fast"); err != nil {
		t.Fatal(err)
	}
	cfg := Config{FS: twoDisks{base, "fast", fast}, Dir: worldDir, JournalDir: "fast/v", SegmentBytes: MinSegmentBytes}
	if change != nil {
		change(&cfg)
	}
	if err := Create(cfg, Spec{testVolume, testVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	return mustOpen(t, cfg), base, fast
}

// fill writes n segments' worth over and over the same place.
func fillSegments(t *testing.T, s *Store, n int, b byte) error {
	t.Helper()
	for range n * MinSegmentBytes / (32 << 10) {
		if _, err := s.Write(bytes.Repeat([]byte{b}, 32<<10), 0); err != nil {
			return err
		}
	}
	return s.Flush(context.Background())
}

// A full disk of the journal stops appends, and history is given up for them;
// a full disk of the base stops destage only.
func TestEachDiskCanBeFull(t *testing.T) {
	t.Run("journal", func(t *testing.T) {
		s, _, fast := onTwoDisks(t, nil)
		fast.SetCapacity(6 * MinSegmentBytes)
		if err := fillSegments(t, s, 8, 1); !errors.Is(err, ErrFull) {
			t.Fatalf("beyond the journal's disk: %v, want ErrFull", err)
		}
		if n, err := s.Reclaim(context.Background()); err != nil || n == 0 {
			t.Fatalf("reclaim: %d bytes, %v", n, err)
		}
		if err := fillSegments(t, s, 2, 2); err != nil {
			t.Fatal(err)
		}
		mustClose(t, s)
	})
	t.Run("base", func(t *testing.T) {
		s, base, _ := onTwoDisks(t, shortJournal)
		base.SetCapacity(0)
		if err := fillSegments(t, s, 8, 1); err != nil {
			t.Fatalf("with a full base: %v", err)
		}
		if err := s.Maintain(context.Background()); !errors.Is(err, ErrFull) {
			t.Fatalf("maintain: %v, want ErrFull", err)
		}
		if err := fillSegments(t, s, 4, 2); err != nil {
			t.Fatalf("behind that: %v", err)
		}
		base.SetCapacity(1 << 40)
		if err := s.Maintain(context.Background()); err != nil {
			t.Fatal(err)
		}
		if s.Stats().JournalBytes > 3*MinSegmentBytes {
			t.Errorf("%d bytes of journal after the base has room again", s.Stats().JournalBytes)
		}
		if got := readAll(t, s, 32<<10); !bytes.Equal(got, bytes.Repeat([]byte{2}, 32<<10)) {
			t.Error("content differs")
		}
		mustClose(t, s)
	})
}

// Before the journal's disk is full the oldest history goes, and no more of it
// than needed, although the budget is not used up.
func TestLittleRoomTrimsHistoryWithinTheBudget(t *testing.T) {
	s, _, fast := onTwoDisks(t, nil)
	const disk = 40 * MinSegmentBytes // 5 of them are to be free
	fast.SetCapacity(disk)
	for i := range 100 {
		if err := fillSegments(t, s, 1, byte(i)); err != nil {
			t.Fatalf("segment %d: %v", i, err)
		}
		if err := s.Maintain(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Stats().JournalBytes; got > disk-disk/lowRoomPart || got < disk/2 {
		t.Errorf("%d bytes of history are kept on a disk of %d", got, disk)
	}
	if _, free, err := fast.Space("fast"); err != nil || free == 0 {
		t.Errorf("%d bytes are free, %v", free, err)
	}
	mustClose(t, s)
}

// TestTwoRealFileSystems has base and journal on file systems of the kernel's:
// no file can be renamed from one to the other.
func TestTwoRealFileSystems(t *testing.T) {
	fast, err := os.MkdirTemp("/dev/shm", "lockstep-")
	if err != nil {
		t.Skipf("a journal on another file system was not tested: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(fast); err != nil {
			t.Error(err)
		}
	})
	cfg := testConfig(t)
	if deviceOf(t, fast) == deviceOf(t, filepath.Dir(cfg.Dir)) {
		t.Skip("a journal on another file system was not tested: /dev/shm is none")
	}
	cfg.JournalDir, cfg.JournalBytes = filepath.Join(fast, "v"), 2*MinSegmentBytes
	smallIndex(&cfg)
	s := createAndOpen(t, cfg)
	want := make([]byte, testVolumeBytes)
	rng := rand.New(rand.NewPCG(1, 13))
	for round := range 6 {
		for range 40 {
			off := int64(rng.IntN(testVolumeBytes/32768)) * 32768
			p := randomBytes(rng, 32768)
			copy(want[off:], p)
			if _, err := s.Write(p, off); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(s.Flush(context.Background()), s.Maintain(context.Background())); err != nil {
			t.Fatal(err)
		}
		if round%2 == 1 {
			mustClose(t, s)
			s = mustOpen(t, cfg)
		}
		if !bytes.Equal(readAll(t, s, testVolumeBytes), want) {
			t.Fatalf("round %d: content differs", round)
		}
	}
	if s.Horizon().Seq == 0 {
		t.Error("nothing was destaged")
	}
	mustClose(t, s)
	report, err := Verify(context.Background(), cfg)
	if err != nil || !report.OK() {
		t.Errorf("verify: %+v, %v", report.Damage, err)
	}
	if err := RemoveJournal(cfg.FS, cfg.JournalDir, testVolume); err != nil {
		t.Error(err)
	}
}

func deviceOf(t *testing.T, dir string) uint64 {
	t.Helper()
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Dev
}
