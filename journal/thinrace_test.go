package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

const (
	raceHot  = 8 // blocks of 32 KiB that each round overwrites with its number
	raceCold = 64
)

// TestThinningBesideEverything thins in the background while rounds are written and
// old checkpoints and the live volume are read. A checkpoint behind a round
// reads as that round everywhere, whatever thinning has moved meanwhile; a
// block that is written seldom reads as itself. In one world only pins, which come
// and go, keep the past.
func TestThinningBesideEverything(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"in memory": func(*Config) {}, "stacks": smallIndex,
		"pins": func(cfg *Config) { cfg.History, cfg.Window = nil, 50*time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			makeParent(t, mem)
			cfg := Config{
				FS: mem, Dir: worldDir, SegmentBytes: MinSegmentBytes, minThinSegments: 2,
				History: History{{time.Microsecond, 50 * time.Millisecond}, {20 * time.Millisecond, time.Hour}},
			}
			change(&cfg)
			if err := Create(cfg, Spec{testVolume, raceHot*(32<<10) + raceCold*4096}); err != nil {
				t.Fatal(err)
			}
			s := mustOpen(t, cfg)
			ctx, cancel := context.WithCancel(t.Context())
			var background, readers errgroup.Group
			background.Go(func() error { return s.Run(ctx) })
			for i := range 2 {
				readers.Go(func() error { return readWhile(ctx, s, rand.New(rand.NewPCG(9, uint64(i)))) })
			}
			err := writeRounds(ctx, s, name == "pins")
			cancel()
			if err := errors.Join(err, readers.Wait(), background.Wait()); err != nil {
				t.Error(err)
			}
			mustClose(t, s)
			report, err := Verify(t.Context(), Config{FS: mem, Dir: worldDir})
			if err != nil || !report.OK() {
				t.Errorf("verify: %v, damage %+v", err, report.Damage)
			}
		})
	}
}

// writeRounds goes on until some segments have been thinned.
func writeRounds(ctx context.Context, s *Store, pins bool) error {
	const enough, most = 6, 20_000
	for round := 1; round < most; round++ {
		for i := range int64(raceHot) {
			if _, err := s.Write(bytes.Repeat([]byte{byte(round)}, 32<<10), i*(32<<10)); err != nil {
				return err
			}
		}
		cold := round % raceCold
		if _, err := s.Write(bytes.Repeat([]byte{byte(cold + 1)}, 4096), raceHot*(32<<10)+int64(cold)*4096); err != nil {
			return err
		}
		c := Checkpoint{Number: CheckpointNumber(round), Time: time.Now(), CheckpointInfo: CheckpointInfo{Group: "shop", Members: []VolumeID{testVolume}}}
		at, err := s.Checkpoint(c)
		if err == nil {
			err = s.Flush(ctx)
		}
		if err == nil && pins && round%20 == 1 {
			err = s.Pin(fmt.Sprint(round), at)
		}
		if err == nil && pins && round%40 == 1 && round > 400 {
			err = s.Unpin(fmt.Sprint(round - 20*(1+round%17)))
		}
		if err != nil {
			return err
		}
		if round > 2*raceCold && s.Stats().Thinning.Rewrites >= enough {
			return nil
		}
	}
	return errors.New("nothing was thinned")
}

func readWhile(ctx context.Context, s *Store, rng *rand.Rand) error {
	for ctx.Err() == nil {
		if err := readCold(s, rng.IntN(raceCold)); err != nil {
			return err
		}
		points := s.Checkpoints()
		if len(points) == 0 {
			continue
		}
		c := points[rng.IntN(len(points))]
		v, err := s.View(c.Position)
		if errors.Is(err, ErrHorizon) {
			continue // thinned, or destaged, since it was listed
		}
		if err != nil {
			return err
		}
		got := make([]byte, raceHot*(32<<10))
		err = errors.Join(v.ReadAt(got, 0), v.Close())
		if err == nil && !bytes.Equal(got, bytes.Repeat([]byte{byte(c.Number)}, len(got))) {
			err = errors.New("a checkpoint reads as another round")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func readCold(s *Store, block int) error {
	got := make([]byte, 4096)
	if err := s.ReadAt(got, raceHot*(32<<10)+int64(block)*4096); err != nil {
		return err
	}
	if !bytes.Equal(got, bytes.Repeat([]byte{byte(block + 1)}, len(got))) && !bytes.Equal(got, make([]byte, len(got))) {
		return errors.New("a block reads as another one")
	}
	return nil
}
