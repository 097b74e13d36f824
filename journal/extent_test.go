package journal

import (
	"math/rand/v2"
	"testing"
)

// modelIndex maps every sector to its location, one by one.
type modelIndex map[uint64]location

func (m modelIndex) insert(start, end uint64, loc location) {
	for s := start; s < end; s++ {
		m[s] = loc.advance(s - start)
	}
}

func checkAgainst(t *testing.T, ix lookuper, model modelIndex, sectors uint64) {
	t.Helper()
	next := uint64(0)
	err := ix.lookup(0, sectors, func(e extent) bool {
		for ; next < e.start(); next++ {
			if _, ok := model[next]; ok {
				t.Fatalf("sector %d: mapped in the model, missing in the index", next)
			}
		}
		for ; next < e.end(); next++ {
			if got, want := e.loc.advance(next-e.start()), model[next]; got != want {
				t.Fatalf("sector %d: location %x, want %x", next, got, want)
			}
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	for ; next < sectors; next++ {
		if _, ok := model[next]; ok {
			t.Fatalf("sector %d: mapped in the model, missing at the index's end", next)
		}
	}
}

// stackOf makes a stack of layers, given from newest to oldest.
func stackOf(layers ...table) *stack {
	st := &stack{}
	for _, t := range layers {
		st.layers = append(st.layers, t)
	}
	return st
}

func randomRun(rng *rand.Rand, sectors uint64) (start, end uint64) {
	start = rng.Uint64N(sectors)
	return start, min(sectors, start+1+rng.Uint64N(24))
}

func TestExtentMapEqualsModel(t *testing.T) {
	const sectors = 512
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m, model := newExtentMap(), modelIndex{}
		for i := range 400 {
			start, end := randomRun(rng, sectors)
			loc := makeLocation(segmentID(i/40+1), int64(4096+i*65536))
			if rng.IntN(5) == 0 {
				loc = makeLocation(segmentID(i/40+1), 0)
			}
			if rng.IntN(9) == 0 {
				last := segmentID(rng.IntN(i/40 + 1))
				m.remove(start, end, last)
				for s := start; s < end; s++ {
					if model[s].segment() <= last {
						delete(model, s)
					}
				}
				continue
			}
			m.insert(start, end, loc)
			model.insert(start, end, loc)
		}
		checkLeaves(t, m)
		checkAgainst(t, m, model, sectors)
		checkAgainst(t, stackOf(m.table()), model, sectors)
		checkAgainst(t, loadExtentMap(m.table()), model, sectors)
	}
}

// checkLeaves checks what an extentMap is to keep to.
func checkLeaves(t *testing.T, m *extentMap) {
	t.Helper()
	if len(m.leaves) != len(m.ends) {
		t.Fatalf("%d leaves and %d ends", len(m.leaves), len(m.ends))
	}
	count, end := 0, uint64(0)
	for i, l := range m.leaves {
		if l.n == 0 || l.n > leafExtents || m.ends[i] != l.end() {
			t.Fatalf("leaf %d of %d extents, its end noted as %d", i, l.n, m.ends[i])
		}
		for _, e := range l.extents[:l.n] {
			if e.start() < end || e.sectors() == 0 {
				t.Fatalf("leaf %d has [%d, %d) behind %d", i, e.start(), e.end(), end)
			}
			end = e.end()
		}
		count += l.n
	}
	if count != m.len() {
		t.Fatalf("%d extents in the leaves, and %d counted", count, m.len())
	}
}

// TestExtentMapOfManyLeaves: random changes of all lengths, from one sector to what many leaves
// have, while it grows and while it shrinks.
func TestExtentMapOfManyLeaves(t *testing.T) {
	const sectors = 16 << 10
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 5))
		m, model := newExtentMap(), modelIndex{}
		most := 0
		for i := range 12000 {
			start := rng.Uint64N(sectors)
			end := min(sectors, start+1+rng.Uint64N(4))
			if rng.IntN(200) == 0 {
				end = min(sectors, start+rng.Uint64N(sectors)+1)
			}
			loc := makeLocation(segmentID(i/1000+1), int64(4096+i*512))
			switch shrinks := i%6000 > 4500; {
			case shrinks && rng.IntN(8) > 0:
				end = min(sectors, start+1+rng.Uint64N(64))
				m.remove(start, end, segmentID(i/1000))
				for s := start; s < end; s++ {
					if l, ok := model[s]; ok && l.segment() <= segmentID(i/1000) {
						delete(model, s)
					}
				}
			case rng.IntN(40) == 0:
				if from, ok := model[start]; ok {
					m.relocate(start, start+1, from, loc)
					model[start] = loc
				}
			default:
				m.insert(start, end, loc)
				model.insert(start, end, loc)
			}
			most = max(most, len(m.leaves))
			if i%500 == 0 {
				checkLeaves(t, m)
				checkAgainst(t, m, model, sectors)
			}
		}
		checkLeaves(t, m)
		checkAgainst(t, m, model, sectors)
		if most < 20 {
			t.Errorf("seed %d: %d leaves at most, too few to test anything", seed, most)
		}
		m.remove(0, sectors, maxSegmentID)
		checkLeaves(t, m)
		if m.len() != 0 || len(m.leaves) != 0 {
			t.Errorf("seed %d: %d extents in %d leaves after all were removed", seed, m.len(), len(m.leaves))
		}
	}
}

// TestExtentMapTakesLittleMemory: nearly full leaves for what only rises, and no leaves nearly empty
// where most was removed.
func TestExtentMapTakesLittleMemory(t *testing.T) {
	const extents = 100_000
	rises := newExtentMap()
	for i := range uint64(extents) {
		rises.insert(2*i, 2*i+1, makeLocation(1, 4096))
	}
	checkLeaves(t, rises)
	if got := len(rises.leaves); got > extents/leafExtents+1 {
		t.Errorf("%d leaves for %d extents that rise", got, extents)
	}
	for i := range uint64(extents) {
		if i%20 != 0 {
			rises.remove(2*i, 2*i+1, 1)
		}
	}
	checkLeaves(t, rises)
	if got, most := len(rises.leaves), extents/20/sparseExtents*2; got > most {
		t.Errorf("%d leaves for %d extents that are left, want %d at most", got, rises.len(), most)
	}
}

func TestOverlayAllEqualsModel(t *testing.T) {
	const sectors = 512
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 2))
		model := modelIndex{}
		var tables []table
		for n := range 1 + rng.IntN(9) {
			m := newExtentMap()
			for i := range rng.IntN(60) {
				start, end := randomRun(rng, sectors)
				loc := makeLocation(segmentID(n+1), int64(4096+i*65536))
				m.insert(start, end, loc)
				model.insert(start, end, loc)
			}
			tables = append(tables, m.table())
		}
		checkAgainst(t, stackOf(overlayAll(tables)), model, sectors)
	}
}

func TestLongRunsAreSplit(t *testing.T) {
	m := newExtentMap()
	const end = 3*maxExtentSectors + 5
	m.insert(0, end, makeLocation(1, 0))
	var covered uint64
	if err := m.lookup(0, end, func(e extent) bool { covered += e.sectors(); return true }); err != nil {
		t.Fatal(err)
	}
	if covered != end || m.len() != 4 {
		t.Fatalf("covered %d sectors in %d extents, want %d in 4", covered, m.len(), uint64(end))
	}
}

func BenchmarkExtentMapInsert4K(b *testing.B) {
	m, rng := newExtentMap(), rand.New(rand.NewPCG(1, 3))
	for i := range b.N {
		start := rng.Uint64N(2<<20) * 8
		m.insert(start, start+8, makeLocation(segmentID(i>>14+1), 4096))
	}
}

// BenchmarkExtentMapOverwrite4K: of a million extents, as a volume has that was written at random.
func BenchmarkExtentMapOverwrite4K(b *testing.B) {
	m, rng := newExtentMap(), rand.New(rand.NewPCG(1, 3))
	for i := range uint64(1 << 20) {
		m.insert(8*i, 8*i+8, makeLocation(1, 4096))
	}
	for b.Loop() {
		start := rng.Uint64N(1<<20) * 8
		m.insert(start, start+8, makeLocation(2, 4096))
	}
}

func BenchmarkOverlayAll(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 4))
	var tables []table
	for n := range 160 {
		m := newExtentMap()
		for range 16 << 10 {
			start := rng.Uint64N(8<<20) * 8
			m.insert(start, start+8, makeLocation(segmentID(n+1), 4096))
		}
		tables = append(tables, m.table())
	}
	for b.Loop() {
		overlayAll(tables)
	}
}
