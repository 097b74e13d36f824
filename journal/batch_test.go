package journal

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// batch draws writes, overlapping ones too, and applies them to the model.
func (d *driver) batch() []BatchWrite {
	writes := make([]BatchWrite, 1+d.rng.IntN(MaxBatch))
	for i := range writes {
		sectors := int64(1 + d.rng.IntN(24))
		off := d.rng.Int64N(testVolumeBytes/SectorBytes-sectors) * SectorBytes
		if i > 0 && d.rng.IntN(3) == 0 {
			off = writes[i-1].Offset // hides a part of the one before
		}
		sectors = min(sectors, (testVolumeBytes-off)/SectorBytes)
		p := bytes.Repeat([]byte{byte(d.rng.Uint32())}, int(sectors*SectorBytes))
		writes[i] = BatchWrite{Offset: off, Data: p}
		copy(d.image[off:], p)
	}
	return writes
}

func TestBatchesEqualSingleWrites(t *testing.T) {
	cfg := testConfig(t)
	s := createAndOpen(t, cfg)
	d := newDriver(t, 21)
	seq := s.Tip().Seq
	for i := range 120 {
		writes := d.batch()
		if err := s.WriteBatch(writes); err != nil {
			t.Fatal(err)
		}
		if seq += Seq(len(writes)); s.Tip().Seq != seq {
			t.Fatalf("tip at %d after %d writes, want %d", s.Tip().Seq, len(writes), seq)
		}
		if i%40 == 0 {
			d.remember(s.Tip())
			if err := s.Maintain(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
	d.checkLive(s)
	if n := d.checkPast(s); n != len(d.past) {
		t.Errorf("opened %d of %d positions", n, len(d.past))
	}
	if err := s.release(s.segments); err != nil { // the process is gone
		t.Fatal(err)
	}
	s = mustOpen(t, cfg)
	d.checkLive(s)
	mustClose(t, s)
}

func TestBatchIsRefusedAsAWhole(t *testing.T) {
	s := createAndOpen(t, testConfig(t))
	good := BatchWrite{Offset: 0, Data: make([]byte, SectorBytes)}
	for name, writes := range map[string][]BatchWrite{
		"beyond the end": {good, {Offset: testVolumeBytes, Data: make([]byte, SectorBytes)}},
		"unaligned":      {good, {Offset: 1, Data: make([]byte, SectorBytes)}},
		"empty write":    {good, {Offset: 0}},
		"too many":       make([]BatchWrite, MaxBatch+1),
		"too long":       {good, {Offset: 0, Data: make([]byte, MaxPayloadBytes+SectorBytes)}},
	} {
		if err := s.WriteBatch(writes); !errors.Is(err, ErrRange) {
			t.Errorf("%s: %v, want ErrRange", name, err)
		}
	}
	if s.Tip().Seq != 0 {
		t.Errorf("tip at %d after refused batches", s.Tip().Seq)
	}
	mustClose(t, s)
}

func BenchmarkWriteBatch4K(b *testing.B) {
	cfg := Config{FS: vfs.OS{}, Dir: b.TempDir() + "/store"}
	if err := Create(cfg, Spec{testVolume, 1 << 30}); err != nil {
		b.Fatal(err)
	}
	s, err := Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const each = 8
	var writes [each]BatchWrite
	for i := range writes {
		writes[i] = BatchWrite{Offset: int64(i) << 20, Data: make([]byte, 4096)}
	}
	b.SetBytes(4096 * each)
	for b.Loop() {
		if err := s.WriteBatch(writes[:]); err != nil {
			b.Fatal(err)
		}
	}
}
