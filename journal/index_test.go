package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// stamped is a store whose blocks say which write was their last. Its segments
// are small and many, its index in memory is small.
type stamped struct {
	t   *testing.T
	mem *vfs.Mem
	cfg Config
	s   *Store
	// places[i] is the block that the write of seq i+1 went to.
	places []int64
	at     []Position
	stride int // from one place to the next
}

const stampedBlocks = 1 << 10

func newStamped(t *testing.T, segments segmentID, change func(*Config)) *stamped {
	t.Helper()
	d := &stamped{t: t, mem: vfs.NewMem(), stride: 37}
	d.cfg = Config{FS: d.mem, Dir: worldDir, Clock: clock.NewManual(worldStart), SegmentBytes: MinSegmentBytes, youngExtents: 100}
	if change != nil {
		change(&d.cfg)
	}
	makeParent(t, d.mem)
	if err := Create(d.cfg, Spec{testVolume, stampedBlocks * blockBytes}); err != nil {
		t.Fatal(err)
	}
	d.s = mustOpen(t, d.cfg)
	d.fill(segments)
	return d
}

// fill writes until the segment with that id is in use.
func (d *stamped) fill(until segmentID) {
	d.t.Helper()
	for d.s.active == nil || d.s.active.id < until {
		block := int64(len(d.places)*d.stride+len(d.places)/stampedBlocks) % stampedBlocks
		d.places = append(d.places, block)
		p := make([]byte, blockBytes)
		binary.LittleEndian.PutUint64(p, uint64(len(d.places)))
		id := segmentID(0)
		if d.s.active != nil {
			id = d.s.active.id
		}
		pos, err := d.s.Write(p, block*blockBytes)
		if err != nil {
			d.t.Fatal(err)
		}
		d.at = append(d.at, pos)
		if d.s.active.id != id {
			d.maintain()
		}
	}
}

func (d *stamped) maintain() {
	d.t.Helper()
	if err := d.s.Maintain(context.Background()); err != nil {
		d.t.Fatal(err)
	}
}

// check compares an image with the first n writes.
func (d *stamped) check(r interface{ ReadAt([]byte, int64) error }, n int) {
	d.t.Helper()
	want := make([]uint64, stampedBlocks)
	for i, block := range d.places[:n] {
		want[block] = uint64(i + 1)
	}
	p := make([]byte, blockBytes)
	for block, stamp := range want {
		if err := r.ReadAt(p, int64(block)*blockBytes); err != nil {
			d.t.Fatal(err)
		}
		if got := binary.LittleEndian.Uint64(p); got != stamp {
			d.t.Fatalf("after %d writes block %d has that of seq %d, want %d", n, block, got, stamp)
		}
	}
}

// checkViews opens views all over the history and returns the largest number of
// layers.
func (d *stamped) checkViews() (layers int) {
	d.t.Helper()
	for n := 1; n <= len(d.at); n += 1 + len(d.at)/60 {
		v, err := d.s.View(d.at[n-1])
		if errors.Is(err, ErrHorizon) {
			continue
		}
		if err != nil {
			d.t.Fatal(err)
		}
		d.check(v, n)
		layers = max(layers, len(v.index.layers))
		if err := v.Close(); err != nil {
			d.t.Fatal(err)
		}
	}
	d.check(d.s, len(d.places))
	return layers
}

// runFiles are the names of the runs on disk, below the store's directory.
func (d *stamped) runFiles() (names []string) {
	d.t.Helper()
	all, err := d.mem.ReadDir(path.Join(worldDir, journalDir))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, name := range all {
		if strings.Contains(name, runSuffix) {
			names = append(names, path.Join(journalDir, name))
		}
	}
	return names
}

func (d *stamped) reopen() {
	d.t.Helper()
	mustClose(d.t, d.s)
	d.s = mustOpen(d.t, d.cfg)
}

// TestLayersGrowWithTheLogarithm: any position is a few runs, and the segments
// that no run has yet.
func TestLayersGrowWithTheLogarithm(t *testing.T) {
	for _, c := range []struct {
		segments segmentID
		step     uint8
		layers   int // at most
	}{{20, 2, 6 + 1}, {90, 2, 9 + 1}, {90, 1, 6 + 1}, {90, 3, 14 + 1}} {
		d := newStamped(t, c.segments, func(cfg *Config) { cfg.runStep = c.step })
		if layers := d.checkViews(); layers > c.layers || layers < 3 {
			t.Errorf("%d segments, step %d: a view has %d layers, want 3 to %d", c.segments, c.step, layers, c.layers)
		}
		d.reopen()
		if layers := d.checkViews(); layers > c.layers {
			t.Errorf("%d segments, step %d: after opening, a view has %d layers, want at most %d", c.segments, c.step, layers, c.layers)
		}
		mustClose(t, d.s)
	}
}

// TestIndexMemoryIsBounded: what is in memory does not grow with the history.
func TestIndexMemoryIsBounded(t *testing.T) {
	d := newStamped(t, 3, nil)
	// Young and old, and the tables of three segments, of 60 records each, that
	// no run has yet, and one more that is being filled.
	bound := 2*(d.s.cfg.youngExtents+61) + 4*61
	for id := segmentID(4); id < 60; id++ {
		d.fill(id)
		if n := d.s.index.len(); n > bound {
			t.Fatalf("%d extents in memory at segment %d, want at most %d", n, id, bound)
		}
	}
	if d.s.index.stack == nil {
		t.Fatal("all of the index is in memory")
	}
	d.check(d.s, len(d.places))
	d.reopen()
	if n := d.s.index.len(); n > bound {
		t.Fatalf("%d extents in memory after opening, want at most %d", n, bound)
	}
	mustClose(t, d.s)
	d.cfg.youngExtents = 0 // the default's
	d.s = mustOpen(t, d.cfg)
	if d.s.index.stack != nil {
		t.Fatal("a small index is not in memory")
	}
	d.check(d.s, len(d.places))
	mustClose(t, d.s)
}

// TestIndexMemoryIsValidated: the configuration takes effect, and has a least
// value.
func TestIndexMemoryIsValidated(t *testing.T) {
	cfg := Config{FS: vfs.NewMem(), Dir: "v", IndexMemory: MinIndexMemory - 1}
	if err := cfg.Validate(); err == nil {
		t.Fatal("too little memory for the index was accepted")
	}
	cfg.IndexMemory = 64 << 20
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s := newRunSet(&cfg, testVolume, cfg.IndexMemory/4)
	if total := int64(2*cfg.youngExtents*indexBytesPerExtent + s.cache.limit*cachedBlockBytes); total > cfg.IndexMemory || total < cfg.IndexMemory*9/10 {
		t.Fatalf("%d bytes for the index, want nearly %d", total, cfg.IndexMemory)
	}
}

// TestDamagedRunsAreMadeAgain flips a byte of every run, in each of its parts,
// below a store that uses them, and before it opens.
func TestDamagedRunsAreMadeAgain(t *testing.T) {
	for name, off := range map[string]func(size int64) int64{
		"header": func(int64) int64 { return 50 },
		"block":  func(int64) int64 { return blockBytes + 100 },
		"tail":   func(size int64) int64 { return size - 30 },
	} {
		t.Run(name, func(t *testing.T) {
			d := newStamped(t, 30, nil)
			files := d.runFiles()
			corrupt := func() {
				for _, file := range files {
					size, err := d.mem.Stat(path.Join(worldDir, file))
					if err == nil {
						err = d.mem.Corrupt(path.Join(worldDir, file), off(size), 1)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			corrupt()
			v, err := d.s.View(d.at[len(d.at)-1])
			if err != nil {
				t.Fatal(err)
			}
			d.check(v, len(d.at))
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			if ranges, err := d.s.Allocation(0, stampedBlocks*blockBytes, 1); err != nil || len(ranges) != 1 || ranges[0].Zero {
				t.Fatal(ranges, err)
			}
			d.checkViews()
			d.reopen()
			d.maintain()
			if again := d.runFiles(); !slices.Equal(again, files) {
				t.Fatalf("runs %v, want %v", again, files)
			}
			mustClose(t, d.s)
			if damaged := d.damagedRuns(); len(damaged) != 0 {
				t.Fatalf("Verify finds %v damaged", damaged)
			}
			corrupt()
			if damaged := d.damagedRuns(); !slices.Equal(damaged, files) {
				t.Fatalf("Verify finds %v damaged, want %v", damaged, files)
			}
			d.s = mustOpen(t, d.cfg)
			d.checkViews()
			d.maintain()
			d.reopen()
			d.checkViews()
			mustClose(t, d.s)
			if damaged := d.damagedRuns(); len(damaged) != 0 {
				t.Fatalf("Verify finds %v damaged", damaged)
			}
		})
	}
}

// damagedRuns are the files of the runs that Verify finds damaged, while it
// finds nothing else wrong.
func (d *stamped) damagedRuns() (names []string) {
	d.t.Helper()
	report, err := Verify(context.Background(), Config{FS: d.mem, Dir: worldDir})
	if err != nil || !report.OK() {
		d.t.Fatalf("Verify: %+v, %v", report.Damage, err)
	}
	if len(report.IndexRuns) != len(d.runFiles()) {
		d.t.Fatalf("Verify finds %d runs, want %v", len(report.IndexRuns), d.runFiles())
	}
	for _, r := range report.IndexRuns {
		if r.Damage != "" {
			names = append(names, r.File)
		}
	}
	slices.Sort(names)
	return names
}

// TestMissingRunsAreMadeAgain: they are derived, and whatever an interrupted
// making left is removed.
func TestMissingRunsAreMadeAgain(t *testing.T) {
	d := newStamped(t, 30, nil)
	files := d.runFiles()
	mustClose(t, d.s)
	for _, file := range files {
		if err := d.mem.Remove(path.Join(worldDir, file)); err != nil {
			t.Fatal(err)
		}
	}
	left, err := d.mem.Create(path.Join(worldDir, files[0]+".tmp"))
	if err == nil {
		err = left.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	d.s = mustOpen(t, d.cfg)
	d.checkViews()
	d.maintain()
	if again := d.runFiles(); !slices.Equal(again, files) {
		t.Fatalf("runs %v, want %v", again, files)
	}
	d.checkViews()
	mustClose(t, d.s)
}

// TestRunsOfGoneSegmentsAreRemoved: the runs go with the journal.
func TestRunsOfGoneSegmentsAreRemoved(t *testing.T) {
	d := newStamped(t, 70, func(cfg *Config) { cfg.JournalBytes = 20 * MinSegmentBytes })
	d.checkViews()
	oldest := slices.Min(sortedSegments(d.s))
	if oldest < 30 {
		t.Fatalf("the oldest segment is %d: nothing was destaged", oldest)
	}
	for _, file := range d.runFiles() {
		key, ok := parseRunName(path.Base(file))
		if !ok || key.end() <= oldest {
			t.Errorf("%s is there, the oldest segment is %d", file, oldest)
		}
	}
	if len(d.runFiles()) < 4 {
		t.Fatalf("runs %v", d.runFiles())
	}
	mustClose(t, d.s)
}

// TestStaleRunIsRefused: a run of other segments with the same ids, which a
// program that knows no runs can have made room for, is not believed.
func TestStaleRunIsRefused(t *testing.T) {
	sameIDs := func(cfg *Config) { cfg.Random = constantReader{} }
	d, other := newStamped(t, 30, sameIDs), newStamped(t, 1, sameIDs)
	mustClose(t, d.s)
	mustClose(t, other.s)
	other.s, other.stride = mustOpen(t, other.cfg), 41 // from the second record on it goes another way
	other.fill(30)
	mustClose(t, other.s)
	for _, file := range d.runFiles() {
		name := path.Join(worldDir, file)
		if err := other.mem.Remove(name); err != nil {
			t.Fatal(err)
		}
		copyFile(t, d.mem, other.mem, name)
	}
	other.s = mustOpen(t, other.cfg)
	other.check(other.s, len(other.places))
	v, err := other.s.View(other.s.Tip())
	if err != nil {
		t.Fatal(err)
	}
	other.check(v, len(other.places))
	if len(v.index.runs) != 0 {
		t.Fatalf("a view has %d runs of other segments", len(v.index.runs))
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	other.maintain() // makes its own in their place
	if layers := other.checkViews(); layers < 3 {
		t.Fatalf("a view has %d layers", layers)
	}
	mustClose(t, other.s)
	if stale := other.damagedRuns(); len(stale) != 0 {
		t.Fatalf("runs of other segments are still there: %v", stale)
	}
}

// constantReader gives every store the same timeline.
type constantReader struct{}

func (constantReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 7
	}
	return len(p), nil
}

func copyFile(t *testing.T, from, to *vfs.Mem, name string) {
	t.Helper()
	size, err := from.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	in, err := from.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	out, err := to.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	err = readFull(in, b, 0)
	if err == nil {
		_, err = out.WriteAt(b, 0)
	}
	if err := errors.Join(err, in.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
}

// noRuns is a file system that has no room for runs.
type noRuns struct {
	vfs.FS
	err error
}

func (n *noRuns) Create(name string) (vfs.File, error) {
	if n.err != nil && strings.HasSuffix(name, runTempSuffix) {
		return nil, n.err
	}
	return n.FS.Create(name)
}

// TestRunsThatCannotBeMade cost speed and nothing else.
func TestRunsThatCannotBeMade(t *testing.T) {
	for _, cause := range []error{vfs.ErrNoSpace, errDisk} {
		fs := &noRuns{err: cause}
		d := newStamped(t, 20, func(cfg *Config) {
			fs.FS = cfg.FS
			cfg.FS = fs
		})
		if files := d.runFiles(); len(files) != 0 {
			t.Fatalf("there are runs: %v", files)
		}
		if layers := d.checkViews(); layers > 2 {
			t.Fatalf("a view has %d layers, want the whole segments as one and a part of another", layers)
		}
		fs.err = nil
		d.maintain()
		if files := d.runFiles(); len(files) < 4 {
			t.Fatalf("runs %v", files)
		}
		d.checkViews()
		mustClose(t, d.s)
	}
}
