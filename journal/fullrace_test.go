package journal

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestFullWhileEverybodyIsAtWork has writers, flushes, views and Run on a disk that
// fills and empties under them. Each writer has a part of the volume.
func TestFullWhileEverybodyIsAtWork(t *testing.T) {
	const writers, part, block = 3, testVolumeBytes / 4, 32 << 10
	mem := vfs.NewMem()
	makeParent(t, mem)
	cfg := Config{FS: mem, Dir: worldDir, SegmentBytes: MinSegmentBytes, youngExtents: 64, runStep: 1}
	if err := Create(cfg, Spec{testVolume, testVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, cfg)
	var last [writers][part / block]byte // what was acknowledged
	run, stop := context.WithCancel(context.Background())
	var ran, g errgroup.Group
	ran.Go(func() error { return s.Run(run) })
	for w := range writers {
		g.Go(func() error {
			for i := range 1500 {
				at, b := i%len(last[w]), byte(i%250+1)
				p, off := bytes.Repeat([]byte{b}, block), int64(w*part+at*block)
				_, err := s.Write(p, off)
				if errors.Is(err, ErrFull) {
					if _, err := s.Reclaim(run); err != nil {
						return err
					}
					_, err = s.Write(p, off)
				}
				switch {
				case err == nil:
					last[w][at] = b
				case !errors.Is(err, ErrFull):
					return err
				}
				if i%50 == 0 {
					if err := s.Flush(run); err != nil {
						return err
					}
				}
				if w == 0 && i%30 == 0 {
					// Fuller and emptier, but never less than what is there: on such a
					// disk no history can be given up, because the base has to grow first.
					total, free, err := mem.Space(worldDir)
					if err != nil {
						return err
					}
					mem.SetCapacity(total - free + int64(2+i%40/10)*MinSegmentBytes)
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		for range 100 {
			v, err := s.View(s.Durable())
			if errors.Is(err, ErrHorizon) {
				continue
			}
			if err == nil {
				err = errors.Join(v.ReadAt(make([]byte, block), 0), v.Close())
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	err := g.Wait()
	stop()
	if err = errors.Join(err, ran.Wait()); err != nil {
		t.Fatal(err)
	}
	st := s.Stats().Space
	if st.Refused == 0 || st.GivenUpBytes == 0 {
		t.Errorf("the disk was never full: %+v", st)
	}
	mem.SetCapacity(1 << 40)
	mustClose(t, s)
	s = mustOpen(t, cfg)
	image := readAll(t, s, testVolumeBytes)
	for w := range writers {
		for at, b := range last[w] {
			if off := w*part + at*block; !bytes.Equal(image[off:off+block], bytes.Repeat([]byte{b}, block)) {
				t.Errorf("block at %d has %d, want %d", off, image[off], b)
			}
		}
	}
	mustClose(t, s)
}
