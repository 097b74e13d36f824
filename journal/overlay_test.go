package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// overlaid is a store with a sector of each of two values, and an overlay of it.
func overlaid(t *testing.T) (parent *Store, origin *View, cfg Config) {
	t.Helper()
	cfg = testConfig(t)
	parent = createAndOpen(t, cfg)
	t.Cleanup(func() { mustClose(t, parent) })
	at, err := parent.Write(bytes.Repeat([]byte{1}, SectorBytes), 0)
	if err != nil {
		t.Fatal(err)
	}
	if origin, err = parent.View(at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = origin.Close() })
	cfg.Dir += "-overlay"
	cfg.Origin = origin
	if err := Create(cfg, Spec{VolumeID{9}, testVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	return parent, origin, cfg
}

func TestOverlayOpensOverItsOriginOnly(t *testing.T) {
	parent, _, cfg := overlaid(t)
	later, err := parent.Write(bytes.Repeat([]byte{2}, SectorBytes), 0)
	if err != nil {
		t.Fatal(err)
	}
	other, err := parent.View(later)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	plain := Config{FS: cfg.FS, Dir: cfg.Dir + "-plain", SegmentBytes: MinSegmentBytes}
	if err := Create(plain, Spec{VolumeID{8}, testVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	plain.Origin = other
	alone, elsewhere := cfg, cfg
	alone.Origin, elsewhere.Origin = nil, other
	for name, tt := range map[string]struct {
		open func() error
		want error
	}{
		"without origin": {func() error { _, err := Open(alone); return err }, ErrOverlay},
		"read-only":      {func() error { _, err := OpenReadOnly(alone); return err }, ErrOverlay},
		"another origin": {func() error { _, err := Open(elsewhere); return err }, ErrForeign},
		"a plain store":  {func() error { _, err := Open(plain); return err }, ErrForeign},
		"another size":   {func() error { cfg.Dir += "2"; return Create(cfg, Spec{VolumeID{7}, SectorBytes}) }, ErrRange},
	} {
		if err := tt.open(); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if report, err := Verify(context.Background(), alone); err != nil || !report.OK() {
		t.Errorf("verify: %+v, %v", report, err)
	}
}

// TestOverlayNeverDestages has an overlay asked for all that would move records
// to a base.
func TestOverlayNeverDestages(t *testing.T) {
	parent, _, cfg := overlaid(t)
	s := mustOpen(t, cfg)
	defer mustClose(t, s)
	want := bytes.Repeat([]byte{5}, 2*MinSegmentBytes)
	for off := 0; off < len(want); off += 64 << 10 {
		if _, err := s.Write(want[off:][:64<<10], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	s.SetRetention(Retention{JournalBytes: 1})
	if freed, err := s.Reclaim(context.Background()); err != nil || freed != 0 {
		t.Errorf("reclaim: %d bytes, %v", freed, err)
	}
	if err := s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(readAll(t, s, int64(len(want))), want) || s.Horizon().Seq != 0 {
		t.Errorf("the overlay was changed; its horizon is %s", s.Horizon())
	}
	if _, err := s.Resize(2 * testVolumeBytes); !errors.Is(err, ErrRange) {
		t.Errorf("resize: %v", err)
	}
	if p := readAll(t, parent, SectorBytes); p[0] != 1 {
		t.Errorf("the origin's volume holds %d", p[0])
	}
}

// budget is an Allowance of so many bytes.
type budget struct{ left int64 }

func (b *budget) Take(bytes int64, renewing bool) error {
	if limit := b.left + 2*MinSegmentBytes; bytes > limit || bytes > b.left && !renewing {
		return fmt.Errorf("%d of %d bytes: %w", bytes, b.left, vfs.ErrNoSpace)
	}
	b.left -= bytes
	return nil
}

func (b *budget) Give(bytes int64) { b.left += bytes }

func TestAllowanceRefusesSegments(t *testing.T) {
	_, _, cfg := overlaid(t)
	allowed := &budget{3 * MinSegmentBytes}
	cfg.Allowance = allowed
	s := mustOpen(t, cfg)
	p := bytes.Repeat([]byte{7}, 64<<10)
	written := 0
	var err error
	for ; err == nil && written < 1000; written++ {
		_, err = s.Write(p, 0)
	}
	if !errors.Is(err, ErrFull) || written < 8 || allowed.left >= MinSegmentBytes {
		t.Fatalf("after %d writes: %v, and %d bytes are left", written, err, allowed.left)
	}
	// The store goes on: it reads, flushes, and takes writes once there is room,
	// which it makes itself of what was overwritten.
	if got := readAll(t, s, int64(len(p))); !bytes.Equal(got, p) {
		t.Error("content differs after a write was refused")
	}
	if err := s.Flush(context.Background()); err != nil {
		t.Error(err)
	}
	for i := range 100 {
		p[0] = byte(i)
		_, err := s.Write(p, int64(i%3)<<16)
		if errors.Is(err, ErrFull) {
			if _, err := s.Reclaim(context.Background()); err != nil {
				t.Fatal(err)
			}
			_, err = s.Write(p, int64(i%3)<<16)
		}
		if err != nil || allowed.left < -2*MinSegmentBytes {
			t.Fatalf("write %d: %v, and %d bytes are left", i, err, allowed.left)
		}
	}
	if got := readAll(t, s, int64(len(p))); got[0] != 99 {
		t.Errorf("the overlay holds %d", got[0])
	}
	// What is not overwritten stays, and the store says that it is full.
	for i := 4; err == nil || i < 10; i++ {
		if _, err = s.Write(p, int64(i)<<16); err != nil {
			_, reclaimErr := s.Reclaim(context.Background())
			_, err = s.Write(p, int64(i)<<16)
			if i > 60 {
				t.Fatalf("%d bytes were written: %v, %v", i<<16, err, reclaimErr)
			}
		}
	}
	if freed, reclaimErr := s.Reclaim(context.Background()); !errors.Is(err, ErrFull) || freed != 0 || reclaimErr != nil {
		t.Errorf("full with what differs: %v; reclaim: %d, %v", err, freed, reclaimErr)
	}
	mustClose(t, s)
}

// TestAllowanceOfASegmentThatWasNotBegun: what was taken for a segment whose header
// found no room is given back, so that a disk that is full for a while does not use a
// quota up.
func TestAllowanceOfASegmentThatWasNotBegun(t *testing.T) {
	_, _, cfg := overlaid(t)
	const all = 8 * MinSegmentBytes
	allowed := &budget{all}
	disk := &scarceFS{FS: cfg.FS, fails: func(w scarceWrite) bool { return !w.vector && w.off == 0 }}
	cfg.FS, cfg.Allowance = disk, allowed
	s := mustOpen(t, cfg)
	defer mustClose(t, s)
	for range 3 {
		disk.armed.Store(true)
		if _, err := s.Write(bytes.Repeat([]byte{7}, SectorBytes), 0); !errors.Is(err, ErrFull) {
			t.Fatalf("a segment that cannot be begun: %v", err)
		}
	}
	if allowed.left != all {
		t.Errorf("%d bytes are left of %d, and no segment is there", allowed.left, all)
	}
	if _, err := s.Write(bytes.Repeat([]byte{7}, SectorBytes), 0); err != nil {
		t.Fatal(err)
	}
	if used := s.Stats().JournalBytes; allowed.left != all-used {
		t.Errorf("%d bytes are left of %d, and segments have %d", allowed.left, all, used)
	}
}
