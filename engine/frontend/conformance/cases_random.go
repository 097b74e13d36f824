package conformance

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/lockstep-csi/lockstep/engine"
)

// testRandom runs seeded operations one after another against a plain byte
// slice, which is what the device should be.
func testRandom(t *testing.T, open OpenFunc) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			b := openBench(t, open, deviceBytes, nil)
			model := make([]byte, deviceBytes)
			random := rand.New(rand.NewPCG(seed, 1))
			for step := range 300 {
				if err := b.randomStep(random, model, uint64(step)); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
			}
			b.must("flush", b.target.Flush)
			for off := int64(0); off < deviceBytes; off += 1 << 20 {
				b.wantContent(model[off:off+1<<20], off)
			}
			b.wantDurable(model, 0)
		})
	}
}

// randomStep does one operation on target and model.
func (b *bench) randomStep(random *rand.Rand, model []byte, step uint64) error {
	off, length := randomRange(random, int64(len(model)), engine.SectorBytes)
	switch random.IntN(10) {
	case 0, 1, 2, 3:
		p := pattern(step, int(length))
		fua := b.caps.FUA && random.IntN(4) == 0
		copy(model[off:], p)
		return b.within("write", func() error { return b.target.WriteAt(p, off, fua) })
	case 4, 5, 6:
		if i := firstDifference(b.read(off, length), model[off:off+length]); i >= 0 {
			return fmt.Errorf("read of [%d, +%d) differs from the model at byte %d", off, length, i)
		}
		return nil
	case 7:
		off, length = randomRange(random, int64(len(model)), b.caps.DiscardBytes)
		clear(model[off : off+length])
		return b.within("discard", func() error { return b.target.Discard(off, length) })
	case 8:
		clear(model[off : off+length])
		return b.within("write zeroes", func() error { return b.target.WriteZeroes(off, length) })
	default:
		return b.within("flush", b.target.Flush)
	}
}

// randomRange picks a range aligned to step. Short ranges are most common, and
// half of all ranges fall on the first megabyte, so that they overlap.
func randomRange(random *rand.Rand, size, step int64) (off, length int64) {
	length = step << random.IntN(4)
	if random.IntN(8) == 0 {
		length = step * (1 + random.Int64N((1<<20)/step))
	}
	space := size - length
	if random.IntN(2) == 0 {
		space = min(space, 1<<20)
	}
	return random.Int64N(space/step+1) * step, length
}

// testConcurrentRegions: clients that each own a region and check it as they
// go, all at once.
func testConcurrentRegions(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	const clients, regionBytes = 16, deviceBytes / 16
	models := make([][]byte, clients)
	var wg sync.WaitGroup
	errs := make(chan error, clients)
	for i := range clients {
		models[i] = make([]byte, regionBytes)
		wg.Go(func() {
			if err := b.ownRegion(models[i], int64(i)*regionBytes, uint64(i)); err != nil {
				errs <- fmt.Errorf("client %d (seed %d): %w", i, i, err)
			}
		})
	}
	b.must("clients", func() error { wg.Wait(); return nil })
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	for i, model := range models {
		b.wantContent(model, int64(i)*regionBytes)
	}
}

// ownRegion changes and checks the region at base. It runs outside the case's
// goroutine, so it reports by its error only.
func (b *bench) ownRegion(model []byte, base int64, seed uint64) error {
	random := rand.New(rand.NewPCG(seed, 2))
	for step := range 60 {
		length := int64(engine.SectorBytes) << random.IntN(8)
		off := random.Int64N((int64(len(model))-length)/engine.SectorBytes+1) * engine.SectorBytes
		p := pattern(seed<<32|uint64(step), int(length))
		copy(model[off:], p)
		if err := b.target.WriteAt(p, base+off, false); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if random.IntN(8) == 0 {
			if err := b.target.Flush(); err != nil {
				return fmt.Errorf("flush: %w", err)
			}
		}
		off = random.Int64N((int64(len(model))-length)/engine.SectorBytes+1) * engine.SectorBytes
		if err := b.target.ReadAt(p, base+off); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if i := firstDifference(p, model[off:off+length]); i >= 0 {
			return fmt.Errorf("read of [%d, +%d) differs at byte %d", base+off, length, i)
		}
	}
	return nil
}
