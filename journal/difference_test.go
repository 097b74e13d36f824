package journal

import (
	"bytes"
	"context"
	"errors"
	"testing"
)

// TestAbsorbFillsAStoreFromItsFork: what was written to an overlay and discarded in it is
// there, and nothing else is changed; once more is no change.
func TestAbsorbFillsAStoreFromItsFork(t *testing.T) {
	ctx := context.Background()
	parent, origin, cfg := overlaid(t)
	overlay := mustOpen(t, cfg)
	defer mustClose(t, overlay)
	big := bytes.Repeat([]byte{5}, 3*MaxPayloadBytes/2)
	for _, err := range []error{
		second(parent.Write(bytes.Repeat([]byte{3}, 4*SectorBytes), 0)), // behind the origin
		second(overlay.Write(bytes.Repeat([]byte{4}, SectorBytes), 2*SectorBytes)),
		second(overlay.Write(bytes.Repeat([]byte{4}, SectorBytes), 3*SectorBytes)),
		second(overlay.Discard(0, SectorBytes)),
		second(overlay.Write(big, 64*SectorBytes)),
		second(overlay.Write(bytes.Repeat([]byte{6}, SectorBytes), 65*SectorBytes)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := readAll(t, overlay, testVolumeBytes)
	d, err := overlay.Difference()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	// Written to later, the overlay's difference stays what it was.
	if _, err := overlay.Write(bytes.Repeat([]byte{9}, SectorBytes), 0); err != nil {
		t.Fatal(err)
	}
	size, err := d.Size(ctx)
	if wanted := int64(len(big)) + 2*SectorBytes; err != nil || size.PayloadBytes != wanted {
		t.Errorf("size %+v, %v, want %d bytes of payload", size, err, wanted)
	}
	var verified int64
	if err := d.Verify(ctx, func(n int64) { verified += n }); err != nil || verified != size.PayloadBytes {
		t.Errorf("verified %d bytes, %v", verified, err)
	}
	if _, err := parent.Fork(origin.Position(), "commit"); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		var absorbed int64
		before := parent.Tip().Seq
		if err := parent.Absorb(ctx, d, func(n int64) { absorbed += n }); err != nil {
			t.Fatal(err)
		}
		// A discard, a run of two sectors, and one that is too long for one record.
		if records := parent.Tip().Seq - before; absorbed != size.PayloadBytes || records != 4 {
			t.Errorf("round %d: absorbed %d bytes in %d records", round, absorbed, records)
		}
		if got := readAll(t, parent, testVolumeBytes); !bytes.Equal(got, want) {
			t.Errorf("round %d: the store differs from the fork in sector %d", round, firstDifference(got, want))
		}
		if parent.Durable() != parent.Tip() {
			t.Errorf("durable to %s of %s", parent.Durable(), parent.Tip())
		}
	}
}

func second(_ Position, err error) error { return err }

func TestAbsorbRefuses(t *testing.T) {
	ctx := context.Background()
	parent, _, cfg := overlaid(t)
	if _, err := parent.Difference(); !errors.Is(err, ErrOverlay) {
		t.Errorf("difference of a store: %v", err)
	}
	overlay := mustOpen(t, cfg)
	defer mustClose(t, overlay)
	if _, err := overlay.Write(make([]byte, SectorBytes), 0); err != nil {
		t.Fatal(err)
	}
	d, err := overlay.Difference()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	other := testConfig(t)
	other.Dir += "-other"
	if err := Create(other, Spec{VolumeID{77}, testVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, other)
	defer mustClose(t, s)
	if err := s.Absorb(ctx, d, func(int64) {}); !errors.Is(err, ErrForeign) {
		t.Errorf("another volume: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := parent.Absorb(ended, d, func(int64) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
