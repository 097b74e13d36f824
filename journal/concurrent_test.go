package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

const (
	crowdWriters     = 4
	crowdBlockBytes  = 4096
	crowdVolumeBytes = crowdWriters * 16 * crowdBlockBytes
)

// crowd is a store with everybody at work at once. Each writer has the blocks
// i with i % crowdWriters == writer, and writes its number, the block and a
// rising counter into every sector: a block is right if its sectors agree,
// belong there, and are not older than what its writer last finished.
type crowd struct {
	s        *Store
	finished [crowdVolumeBytes / crowdBlockBytes]atomic.Uint64
}

func (c *crowd) fill(p []byte, block int, count uint64) {
	for i := 0; i < len(p); i += SectorBytes {
		binary.LittleEndian.PutUint64(p[i:], uint64(block))
		binary.LittleEndian.PutUint64(p[i+8:], count)
	}
}

// verify returns the counter of a block's content. torn allows for a write
// that is under way.
func (c *crowd) verify(p []byte, block int) (oldest uint64, err error) {
	oldest = binary.LittleEndian.Uint64(p[8:])
	for i := 0; i < len(p); i += SectorBytes {
		count := binary.LittleEndian.Uint64(p[i+8:])
		if at := binary.LittleEndian.Uint64(p[i:]); at != uint64(block) && count != 0 {
			return 0, fmt.Errorf("block %d holds content of block %d", block, at)
		}
		oldest = min(oldest, count)
	}
	return oldest, nil
}

func (c *crowd) write(ctx context.Context, writer int) error {
	rng := rand.New(rand.NewPCG(uint64(writer), 3))
	p := make([]byte, crowdBlockBytes)
	for count := uint64(1); ctx.Err() == nil; count++ {
		block := rng.IntN(crowdVolumeBytes/crowdBlockBytes/crowdWriters)*crowdWriters + writer
		c.fill(p, block, count)
		if _, err := c.s.Write(p, int64(block)*crowdBlockBytes); err != nil {
			return err
		}
		c.finished[block].Store(count)
		if count%16 == 0 {
			if err := c.s.Flush(context.Background()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *crowd) read(ctx context.Context, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 4))
	p := make([]byte, crowdBlockBytes)
	for ctx.Err() == nil {
		block := rng.IntN(crowdVolumeBytes / crowdBlockBytes)
		want := c.finished[block].Load()
		if err := c.s.ReadAt(p, int64(block)*crowdBlockBytes); err != nil {
			return err
		}
		oldest, err := c.verify(p, block)
		if err != nil {
			return err
		}
		if oldest < want {
			return fmt.Errorf("block %d reads as of write %d after %d was finished", block, oldest, want)
		}
	}
	return nil
}

// look opens views at the tip and reads each twice, with time in between.
func (c *crowd) look(ctx context.Context) error {
	first, second := make([]byte, crowdVolumeBytes), make([]byte, crowdVolumeBytes)
	for ctx.Err() == nil {
		v, err := c.s.View(c.s.Tip())
		if err != nil {
			return err
		}
		err = errors.Join(v.ReadAt(first, 0), v.ReadAt(second, 0), v.Close())
		if err != nil {
			return err
		}
		if firstDifference(first, second) >= 0 {
			return errors.New("a view changed")
		}
		for block := range crowdVolumeBytes / crowdBlockBytes {
			if _, err := c.verify(first[block*crowdBlockBytes:][:crowdBlockBytes], block); err != nil {
				return fmt.Errorf("view at %s: %w", v.Position(), err)
			}
		}
	}
	return nil
}

// follow reads the records as they become durable and checks their order.
func (c *crowd) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		r, err := c.s.Records(c.s.Durable())
		if errors.Is(err, ErrDiverged) || errors.Is(err, ErrUnknownPosition) || errors.Is(err, ErrHorizon) {
			continue // forked or destaged in between
		}
		if err != nil {
			return err
		}
		at := r.at
		for range 200 {
			record, err := r.Next(ctx)
			if err != nil {
				break
			}
			if record.Position.Seq != at.Seq+1 {
				r.Close()
				return fmt.Errorf("record %s follows %s", record.Position, at)
			}
			at = record.Position
		}
		r.Close()
	}
	return nil
}

// fork begins a timeline at the tip: nothing is lost by it. A write that comes
// between the two calls would be, so it holds the appends.
func (c *crowd) fork(ctx context.Context) error {
	for ctx.Err() == nil {
		c.s.maintainMu.Lock()
		c.s.appendMu.Lock()
		_, err := c.s.forkLocked(c.s.Tip(), "test")
		c.s.appendMu.Unlock()
		c.s.maintainMu.Unlock()
		if err != nil {
			return err
		}
		if err := c.pinAWhile(); err != nil {
			return err
		}
	}
	return nil
}

func (c *crowd) pinAWhile() error {
	if err := c.s.Pin("a while", c.s.Durable()); err != nil && !errors.Is(err, ErrHorizon) && !errors.Is(err, ErrUnknownPosition) {
		return err
	}
	return c.s.Unpin("a while")
}

// TestEverybodyAtOnce is meant for the race detector. LOCKSTEP_TEST_SECONDS
// makes it longer.
func TestEverybodyAtOnce(t *testing.T) {
	for name, fs := range map[string]vfs.FS{"os": vfs.OS{}, "mem": vfs.NewMem(), "small index": vfs.OS{}, "small index, short journal": vfs.NewMem(), "direct writes": vfs.OS{}} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t)
			cfg.FS, cfg.JournalBytes = fs, 3*MinSegmentBytes
			switch name {
			case "mem":
				cfg.Dir = "v"
			case "small index, short journal": // which destage takes from disk and from memory at once
				cfg.Dir, cfg.youngExtents, cfg.runStep = "v", 40, 1
			case "direct writes": // beside reads of the base through the page cache
				cfg.directBytes = vfs.DirectAlignBytes
			case "small index":
				smallIndex(&cfg)
				cfg.JournalBytes = 12 * MinSegmentBytes
			}
			if err := Create(cfg, Spec{testVolume, crowdVolumeBytes}); err != nil {
				t.Fatal(err)
			}
			c := &crowd{s: mustOpen(t, cfg)}
			seconds := 2
			if text := os.Getenv("LOCKSTEP_TEST_SECONDS"); text != "" {
				var err error
				if seconds, err = strconv.Atoi(text); err != nil {
					t.Fatal(err)
				}
			}
			c.run(t, time.Duration(seconds)*time.Second)
			checkNothingHeld(t, c.s)
			mustClose(t, c.s)
			c.s = mustOpen(t, cfg)
			c.checkAll(t)
			mustClose(t, c.s)
		})
	}
}

func (c *crowd) run(t *testing.T, d time.Duration) {
	t.Helper()
	timed, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	group, ctx := errgroup.WithContext(timed)
	for writer := range crowdWriters {
		group.Go(func() error { return c.write(ctx, writer) })
	}
	for seed := range uint64(2) {
		group.Go(func() error { return c.read(ctx, seed) })
	}
	for _, work := range []func(context.Context) error{c.look, c.follow, c.fork, c.s.Run} {
		group.Go(func() error { return work(ctx) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

func (c *crowd) checkAll(t *testing.T) {
	t.Helper()
	p := make([]byte, crowdBlockBytes)
	for block := range crowdVolumeBytes / crowdBlockBytes {
		if err := c.s.ReadAt(p, int64(block)*crowdBlockBytes); err != nil {
			t.Fatal(err)
		}
		got, err := c.verify(p, block)
		if err != nil {
			t.Fatal(err)
		}
		if want := c.finished[block].Load(); got != want {
			t.Fatalf("block %d is of write %d, want %d", block, got, want)
		}
	}
}
