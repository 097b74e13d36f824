package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// randomTable has extents of the segments from first to last.
func randomTable(rng *rand.Rand, n int, sectors uint64, first, last segmentID) table {
	m := newExtentMap()
	for i := range n {
		start, end := randomRun(rng, sectors)
		loc := makeLocation(first+segmentID(rng.Uint64N(uint64(last-first+1))), int64(blockBytes+i*64<<10))
		if rng.IntN(5) == 0 {
			loc = makeLocation(first, 0)
		}
		m.insert(start, end, loc)
	}
	return m.table()
}

// TestOverlayCursorsEqualModel merges layers, as the making of a run does.
func TestOverlayCursorsEqualModel(t *testing.T) {
	const sectors = 512
	for seed := range uint64(60) {
		rng, model := rand.New(rand.NewPCG(seed, 3)), modelIndex{}
		var layers []table
		var cursors []cursor
		for n := range 1 + rng.IntN(9) {
			layer := randomTable(rng, rng.IntN(60), sectors, segmentID(n+1), segmentID(n+1))
			for _, e := range layer {
				model.insert(e.start(), e.end(), e.loc)
			}
			layers, cursors = append(layers, layer), append(cursors, layer.cursor())
		}
		slices.Reverse(layers)
		slices.Reverse(cursors)
		merged, err := drain(overlayCursors(cursors))
		if err != nil {
			t.Fatal(err)
		}
		checkAgainst(t, stackOf(merged), model, sectors)
		checkAgainst(t, stackOf(layers...), model, sectors)
	}
}

func drain(c cursor) (t table, err error) {
	for {
		e, ok, err := c.next()
		if err != nil || !ok {
			return t, err
		}
		t = append(t, e)
	}
}

// goldenRunJob names three segments, the first of which is of another timeline.
func goldenRunJob() runJob {
	part := func(id segmentID, line TimelineID, first, last Seq) pathPart {
		g := &segment{id: id, volume: goldenVolume, timeline: line, first: first, last: last, sealed: true, footerCRC: uint32(id) * 0x01010101}
		return pathPart{g.snapshot(), last}
	}
	return runJob{
		key:   runKey{owner: goldenLine, start: 4, level: 2},
		parts: []pathPart{part(4, 1, 20, 40), part(5, goldenLine, 41, 45), part(7, goldenLine, 46, 90)},
	}
}

// makeRun writes a run of a table into a file system of its own.
func makeRun(t testing.TB, extents table) (*vfs.Mem, *Config, runKey) {
	t.Helper()
	mem, job := vfs.NewMem(), goldenRunJob()
	cfg := &Config{FS: mem, Dir: "v"}
	if err := errors.Join(cfg.Validate(), mem.MkdirAll(cfg.file(journalDir))); err != nil {
		t.Fatal(err)
	}
	s := &Store{cfg: *cfg, volume: goldenVolume, runs: newRunSet(cfg, goldenVolume, 1<<20)}
	if err := s.writeRun(context.Background(), job, extents.cursor()); err != nil {
		t.Fatal(err)
	}
	return mem, cfg, job.key
}

// TestRunEqualsTable: what a run of several blocks says is what was put in, by
// lookup and as a whole.
func TestRunEqualsTable(t *testing.T) {
	const sectors = 1 << 16
	for _, n := range []int{0, 1, runExtentsPerBlock / 4, 3000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(n), 4))
			want := randomTable(rng, n, sectors, 4, 7)
			_, cfg, key := makeRun(t, want)
			r, err := openRun(cfg, goldenVolume, key, newBlockCache(3*cachedBlockBytes))
			if err != nil {
				t.Fatal(err)
			}
			all, err := drain(r.cursor())
			if err != nil || !slices.Equal(all, want) {
				t.Fatalf("a run of %d extents yields %d: %v", len(want), len(all), err)
			}
			st := &stack{layers: []layer{r}}
			for range 2000 {
				start, end := randomRun(rng, sectors)
				got, expected := find(t, st, start, end), find(t, stackOf(want), start, end)
				if !slices.Equal(got, expected) {
					t.Fatalf("[%d, %d): %v, want %v", start, end, got, expected)
				}
			}
			if slots := len(r.cache.slots); slots > 3 || n > 1000 && slots != 3 {
				t.Fatalf("%d blocks are cached, want at most 3", slots)
			}
			if err := r.file.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func find(t *testing.T, ix lookuper, start, end uint64) (found table) {
	t.Helper()
	err := ix.lookup(start, end, func(e extent) bool {
		found = append(found, e)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestLookupWithoutWaiting: what is not in memory is not waited for.
func TestLookupWithoutWaiting(t *testing.T) {
	want := randomTable(rand.New(rand.NewPCG(1, 5)), 600, 1<<16, 4, 7)
	_, cfg, key := makeRun(t, want)
	r, err := openRun(cfg, goldenVolume, key, newBlockCache(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.file.Close() }()
	r.file.DropCache()
	st := patient{&stack{layers: []layer{r}}, false}
	last := want[len(want)-1]
	err = st.lookup(last.start(), last.end(), func(extent) bool { return true })
	if !errors.Is(err, errWouldWait) {
		t.Fatalf("a block on disk was found without waiting: %v", err)
	}
	if got := find(t, st.stack, last.start(), last.end()); !slices.Equal(got, table{last}) {
		t.Fatalf("waiting found %v, want %v", got, last)
	}
	r.file.DropCache()
	if got := find(t, st, last.start(), last.end()); !slices.Equal(got, table{last}) {
		t.Fatalf("a cached block was not found without waiting: %v", got)
	}
}

// TestRunWithEveryByteFlipped: a run with any byte changed, or cut at any byte,
// is refused, or says that it is damaged, or yields what it should.
func TestRunWithEveryByteFlipped(t *testing.T) {
	want := randomTable(rand.New(rand.NewPCG(2, 6)), 400, 1<<16, 4, 7)
	mem, cfg, key := makeRun(t, want)
	name := cfg.file(key.name())
	size, err := mem.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	noticed := func() bool {
		r, err := openRun(cfg, goldenVolume, key, newBlockCache(1<<20))
		if err != nil {
			if !isUseless(err) {
				t.Fatalf("open: %v", err)
			}
			return true
		}
		defer func() { _ = r.file.Close() }()
		got, err := drain(r.cursor())
		if err == nil && !reflect.DeepEqual(got, want) {
			t.Fatal("a damaged run yields other extents")
		}
		if err != nil && !isRunDamage(err) {
			t.Fatalf("read: %v", err)
		}
		return err != nil
	}
	if noticed() {
		t.Fatal("an undamaged run is refused")
	}
	for off := range size {
		if err := mem.Corrupt(name, off, 1); err != nil {
			t.Fatal(err)
		}
		if !noticed() {
			t.Fatalf("flipping byte %d of %d was not noticed", off, size)
		}
		if err := mem.Corrupt(name, off, 1); err != nil { // flips it back
			t.Fatal(err)
		}
	}
	if noticed() {
		t.Fatal("an undamaged run is refused")
	}
	f, err := mem.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	for n := size - 1; n >= 0; n -= 61 {
		if err := f.Truncate(n); err != nil {
			t.Fatal(err)
		}
		if !noticed() {
			t.Fatalf("a run cut at byte %d of %d was accepted", n, size)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedRunIsDropped, also when nobody else has it open: or what merges it would
// meet it again for ever.
func TestDamagedRunIsDropped(t *testing.T) {
	_, cfg, key := makeRun(t, randomTable(rand.New(rand.NewPCG(1, 4)), 100, 1<<16, 4, 7))
	rs := newRunSet(cfg, goldenVolume, 1<<20)
	acquire := func() *run {
		t.Helper()
		rs.add(key)
		r := rs.acquire(key, func([]runSegment) bool { return true })
		if r == nil {
			t.Fatal("the run cannot be opened")
		}
		return r
	}
	found := acquire()
	rs.release(found)
	now := acquire()
	rs.damaged(&runDamage{run: found, err: ErrCorrupt})
	if !rs.has(key) {
		t.Error("a run was dropped for the damage of the one before it")
	}
	rs.release(now)
	rs.damaged(&runDamage{run: now, err: ErrCorrupt})
	if rs.has(key) {
		t.Error("a damaged run that nobody has open is still known")
	}
}

// TestRunOfOthersIsRefused: a block, and a file, belong to one run.
func TestRunOfOthersIsRefused(t *testing.T) {
	want := randomTable(rand.New(rand.NewPCG(3, 6)), 300, 1<<16, 4, 7)
	mem, cfg, key := makeRun(t, want)
	if _, err := openRun(cfg, testVolume, key, newBlockCache(0)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a run of another volume: %v", err)
	}
	other := key
	other.owner++
	if err := mem.Rename(cfg.file(key.name()), cfg.file(other.name())); err != nil {
		t.Fatal(err)
	}
	if _, err := openRun(cfg, goldenVolume, other, newBlockCache(0)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a run under another name: %v", err)
	}
	h := runHeader{volume: goldenVolume, key: key, extents: 2}
	block := appendRunBlock(nil, h.identity(), 0, table{makeExtent(0, 1, makeLocation(4, 4096)), makeExtent(1, 2, makeLocation(5, 4096))})
	if _, err := decodeRunBlock(nil, block, &h, 0); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(h *runHeader, number *int64){
		"volume":   func(h *runHeader, _ *int64) { h.volume[0]++ },
		"owner":    func(h *runHeader, _ *int64) { h.key.owner++ },
		"start":    func(h *runHeader, _ *int64) { h.key.start += 4 },
		"level":    func(h *runHeader, _ *int64) { h.key.level++ },
		"segments": func(h *runHeader, _ *int64) { h.listCRC++ },
		"number":   func(h *runHeader, number *int64) { *number, h.extents = 1, h.extents+runExtentsPerBlock },
	} {
		h, number := h, int64(0)
		change(&h, &number)
		if _, err := decodeRunBlock(nil, block, &h, number); !errors.Is(err, ErrCorrupt) {
			t.Errorf("a block with another %s was accepted: %v", what, err)
		}
	}
}
