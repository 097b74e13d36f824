package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestIndexMemory measures what an extent of the live index takes, of which
// Stats tells an estimate.
func TestIndexMemory(t *testing.T) {
	const inserts = 1 << 20
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.GC() // what the first one found to be garbage is swept now
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	m, rng := newExtentMap(), rand.New(rand.NewPCG(1, 1))
	for i := range inserts {
		start := rng.Uint64N(32*inserts) * 8
		m.insert(start, start+8, makeLocation(segmentID(i>>14+1), 4096))
	}
	each := float64(heap()-before) / float64(m.len())
	t.Logf("%d extents of 4 KiB at random: %.1f bytes each", m.len(), each)
	if each > 40 {
		t.Errorf("an extent takes %.1f bytes, want at most 40", each)
	}
	if each > indexBytesPerExtent+3 || each < indexBytesPerExtent-3 {
		t.Errorf("an extent takes %.1f bytes, Stats reports %d", each, indexBytesPerExtent)
	}
	runtime.KeepAlive(m)
}

func benchStore(b *testing.B, cfg Config, size int64) *Store {
	b.Helper()
	if err := Create(cfg, Spec{testVolume, size}); err != nil {
		b.Fatal(err)
	}
	s, err := Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func benchConfig(b *testing.B) Config {
	b.Helper()
	dir, err := os.MkdirTemp(os.Getenv("LOCKSTEP_BENCH_DIR"), "journal-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	return Config{FS: vfs.OS{}, Dir: filepath.Join(dir, "v")}
}

// BenchmarkAppend4K appends random 4 KiB writes, with destage behind them.
func BenchmarkAppend4K(b *testing.B) {
	for _, flushEvery := range []int{0, 1} {
		b.Run(fmt.Sprintf("flush=%d", flushEvery), func(b *testing.B) {
			cfg := benchConfig(b)
			cfg.JournalBytes = 512 << 20
			s := benchStore(b, cfg, 1<<30)
			p, rng := make([]byte, 4096), rand.New(rand.NewPCG(1, 2))
			b.SetBytes(4096)
			for i := 0; b.Loop(); i++ {
				if _, err := s.Write(p, rng.Int64N(1<<18)*4096); err != nil {
					b.Fatal(err)
				}
				if flushEvery == 1 {
					if err := s.Flush(context.Background()); err != nil {
						b.Fatal(err)
					}
				}
				if i%(1<<14) == 0 {
					b.StopTimer()
					if err := s.Maintain(context.Background()); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			}
			b.StopTimer()
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkDestage moves records, that were written and synced before, into the base.
// It reports the processor's time for each MiB of them, which other work on the
// machine disturbs less than the time that passes.
func BenchmarkDestage(b *testing.B) {
	const volumeBytes = 256 << 20
	for _, tt := range []struct {
		name   string
		length int64
		random bool
		cached bool
	}{{"1MiB", 1 << 20, false, false}, {"1MiB-cached", 1 << 20, false, true}, {"4KiB", 4 << 10, false, false}, {"4KiB-random", 4 << 10, true, false}} {
		b.Run(tt.name, func(b *testing.B) {
			cfg := benchConfig(b)
			if !tt.cached {
				cfg.CacheBytes = 1
			}
			s := benchStore(b, cfg, volumeBytes)
			p, rng := make([]byte, tt.length), rand.New(rand.NewPCG(1, 2))
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			var processor time.Duration
			b.SetBytes(volumeBytes)
			for b.Loop() {
				b.StopTimer()
				for i := range volumeBytes / tt.length {
					if tt.random {
						i = rng.Int64N(volumeBytes / tt.length)
					}
					if _, err := s.Write(p, i*tt.length); err != nil {
						b.Fatal(err)
					}
				}
				if err := errors.Join(s.Flush(context.Background()), s.supply()); err != nil {
					b.Fatal(err)
				}
				before := processorTime(b)
				b.StartTimer()
				if err := destageUnheld(s); err != nil {
					b.Fatal(err)
				}
				processor += processorTime(b) - before
			}
			b.StopTimer()
			b.ReportMetric(float64(processor.Microseconds())/float64(b.N)/(volumeBytes>>20), "cpu-µs/MiB")
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// processorTime is what this process has used so far, in the kernel too.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func BenchmarkRead4K(b *testing.B) {
	cfg := benchConfig(b)
	s := benchStore(b, cfg, 256<<20)
	p, rng := make([]byte, 4096), rand.New(rand.NewPCG(1, 2))
	for range 1 << 14 {
		if _, err := s.Write(p, rng.Int64N(1<<16)*4096); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(4096)
	for b.Loop() {
		if err := s.ReadAt(p, rng.Int64N(1<<16)*4096); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRecovery opens a store with 1 GiB of 4 KiB records that was killed:
// with all of it unsealed, which Maintain never lets come to pass, and sealed.
func BenchmarkRecovery(b *testing.B) {
	for _, sealed := range []bool{false, true} {
		b.Run(fmt.Sprintf("sealed=%t", sealed), func(b *testing.B) {
			cfg := benchConfig(b)
			cfg.SegmentBytes = 128 << 20
			s := benchStore(b, cfg, 4<<30)
			p, rng := make([]byte, 4096), rand.New(rand.NewPCG(1, 2))
			for range 1 << 18 {
				if _, err := s.Write(p, rng.Int64N(1<<20)*4096); err != nil {
					b.Fatal(err)
				}
			}
			if sealed {
				if err := s.closeCleanly(); err != nil {
					b.Fatal(err)
				}
			}
			if err := s.release(s.segments); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			for range b.N {
				if err := recoverOnce(cfg); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if !sealed {
					forgetSealed(b, cfg)
				}
				b.StartTimer()
			}
		})
	}
}

func recoverOnce(cfg Config) error {
	s, err := Open(cfg)
	if err != nil {
		return err
	}
	return s.release(s.segments)
}

// forgetSealed takes all segments out of the catalog again.
func forgetSealed(b *testing.B, cfg Config) {
	b.Helper()
	db, err := cfg.FS.OpenDB(cfg.file(catalogFile))
	if err != nil {
		b.Fatal(err)
	}
	err = db.Update(func(tx kv.Tx) error {
		for id := range segmentID(64) {
			if err := tx.Delete(bucketSegments, key64(uint64(id))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkView10GiB opens a view over 160 sealed segments of 64 MiB that are
// full of random 4 KiB records: their footers are real, their records are not.
// Without index runs it is as a store that an older program filled.
func BenchmarkView10GiB(b *testing.B) {
	cfg := benchConfig(b)
	s := benchStore(b, cfg, 32<<30)
	line := s.Tip().Timeline
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	last := writeFooters(b, cfg, line, 160, 16<<10)
	s, err := Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	at := Position{line, last}
	open := func(b *testing.B) {
		for b.Loop() {
			v, err := s.View(at)
			if err != nil {
				b.Fatal(err)
			}
			if err := v.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("runs=false", open)
	if err := s.Maintain(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.Run("runs=true", open)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// writeFooters enters sealed segments of so many records each into a store.
func writeFooters(b *testing.B, cfg Config, line TimelineID, segments, records int) (last Seq) {
	b.Helper()
	rng := rand.New(rand.NewPCG(1, 4))
	if err := cfg.Validate(); err != nil {
		b.Fatal(err)
	}
	db, err := cfg.FS.OpenDB(cfg.file(catalogFile))
	if err != nil {
		b.Fatal(err)
	}
	c := catalog{db}
	err = db.Update(func(tx kv.Tx) error {
		state, err := decodeState(tx.Get(bucketMeta, keyState))
		if err != nil {
			return err
		}
		for n := range segments {
			g := &segment{id: segmentID(n + 1), volume: testVolume, timeline: line, first: last + 1, bytes: cfg.SegmentBytes, name: segmentName(segmentID(n + 1)), end: blockBytes}
			m := newExtentMap()
			for range records {
				start := rng.Uint64N(8<<20) * 8
				m.insert(start, start+8, makeLocation(g.id, g.end+frameHeaderBytes))
				g.end += frameBytes(4096)
			}
			last += Seq(records)
			g.last = last
			if err := writeSealed(cfg, g, m.table()); err != nil {
				return err
			}
			e := segmentEntry{Timeline: line, First: g.first, Last: g.last, EndBytes: g.end, Bytes: g.bytes, ClosedAt: cfg.Clock.Now()}
			if err := c.saveSegment(tx, g.id, e); err != nil {
				return err
			}
		}
		state.CleanTip = &Position{line, last}
		return c.saveState(tx, state)
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
	return last
}

func writeSealed(cfg Config, g *segment, extents table) (err error) {
	if g.end > g.bytes-(1<<20) {
		g.bytes = g.end + 1<<20 // footers of simulated records need room, too
		g.bytes = (g.bytes + blockBytes - 1) &^ (blockBytes - 1)
	}
	if g.file, err = cfg.FS.Create(cfg.file(g.name)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.file.Close()) }()
	if err := g.file.Truncate(g.bytes); err != nil {
		return err
	}
	h := segmentHeader{volume: g.volume, id: g.id, timeline: g.timeline, first: g.first, bytes: g.bytes, created: cfg.Clock.Now()}
	if _, err := g.file.WriteAt(h.encode(), 0); err != nil {
		return err
	}
	return g.writeFooter(footer{id: g.id, timeline: g.timeline, first: g.first, last: g.last, end: g.end, extents: extents})
}
