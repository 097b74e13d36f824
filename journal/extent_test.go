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
		checkAgainst(t, m, model, sectors)
		checkAgainst(t, stackOf(m.table()), model, sectors)
		checkAgainst(t, loadExtentMap(m.table()), model, sectors)
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
