package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// damagedStore is a store that was killed, with sealed segments, then one with
// durable records, and the places in it that tests damage.
type damagedStore struct {
	mem              *vfs.Mem
	cfg              Config
	sealed, unsealed string // names below the store's directory
	start, tip       Position
	// offsets of frames in the unsealed segment; all but the last two are
	// proved durable by those behind them
	frames []int64
}

func newDamagedStore(t *testing.T) *damagedStore {
	t.Helper()
	w := newWorld(t, 42, nil)
	d := &damagedStore{start: w.s.Tip()}
	for w.s.active == nil || w.s.active.id < 3 {
		if err := w.write(); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.maintain(), w.s.Pin("start", d.start)); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		d.frames = append(d.frames, w.s.active.end)
		if err := errors.Join(w.write(), w.flush()); err != nil {
			t.Fatal(err)
		}
	}
	d.tip, d.unsealed, d.sealed = w.s.Tip(), w.s.active.name, segmentName(1)
	d.mem, d.cfg = w.mem.KillClone(), w.cfg
	d.cfg.FS = d.mem
	return d
}

func (d *damagedStore) corrupt(t *testing.T, name string, off, length int64) {
	t.Helper()
	if err := d.mem.Corrupt(path.Join(worldDir, name), off, length); err != nil {
		t.Fatal(err)
	}
}

// wantCorrupt checks that an error says where what was found.
func wantCorrupt(t *testing.T, err error, kind error, file string) CorruptError {
	t.Helper()
	var c *CorruptError
	if !errors.As(err, &c) || !errors.Is(err, kind) {
		t.Fatalf("got %v, want a CorruptError of kind %v", err, kind)
	}
	if c.File != file || c.What == "" || c.Wanted == "" || c.Found == "" || c.Wanted == c.Found {
		t.Fatalf("got %+v, want file %s, and what was wanted and found", c, file)
	}
	return *c
}

// wantReported checks that Verify finds damage in a file and in no other.
func wantReported(t *testing.T, fs vfs.FS, file string) []Damage {
	t.Helper()
	report, err := Verify(context.Background(), Config{FS: fs, Dir: worldDir})
	if err != nil {
		t.Fatal(err)
	}
	if report.OK() {
		t.Fatalf("Verify found no damage in %s", file)
	}
	for _, x := range report.Damage {
		if x.File != file {
			t.Fatalf("Verify found damage in %s: %+v, want it in %s", x.File, x, file)
		}
	}
	return report.Damage
}

func TestUndamagedStoreVerifies(t *testing.T) {
	d := newDamagedStore(t)
	report, err := Verify(context.Background(), Config{FS: d.mem, Dir: worldDir})
	if err != nil || !report.OK() {
		t.Fatalf("%+v, %v", report.Damage, err)
	}
	if report.Tip != d.tip.String() {
		t.Fatalf("tip %s, want %s", report.Tip, d.tip)
	}
	s := mustOpen(t, d.cfg)
	mustClose(t, s)
}

// TestDamageInUnsealedSegment: what was durable is never taken for a torn
// tail, and stays on disk for whoever can heal it.
func TestDamageInUnsealedSegment(t *testing.T) {
	for name, at := range map[string]func(d *damagedStore) (off, length int64){
		"segment header":       func(*damagedStore) (int64, int64) { return 20, 1 },
		"whole segment header": func(*damagedStore) (int64, int64) { return 0, blockBytes },
		"first frame header":   func(*damagedStore) (int64, int64) { return blockBytes + 20, 1 },
		"frame magic":          func(d *damagedStore) (int64, int64) { return d.frames[3], 4 },
		"frame's durable mark": func(d *damagedStore) (int64, int64) { return d.frames[3] + 8, 1 },
		"record header":        func(d *damagedStore) (int64, int64) { return d.frames[3] + 30, 1 },
		"payload":              func(d *damagedStore) (int64, int64) { return d.frames[3] + frameHeaderBytes + 9, 1 },
		"several frames":       func(d *damagedStore) (int64, int64) { return d.frames[1], d.frames[5] - d.frames[1] },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDamagedStore(t)
			off, length := at(d)
			d.corrupt(t, d.unsealed, off, length)
			for range 2 { // a failed Open changes nothing
				_, err := Open(d.cfg)
				c := wantCorrupt(t, err, ErrCorrupt, d.unsealed)
				if c.Offset > off || off >= blockBytes && c.Offset < blockBytes {
					t.Fatalf("damage at %d is reported at %d", off, c.Offset)
				}
			}
			wantReported(t, d.mem, d.unsealed)
			d.corrupt(t, d.unsealed, off, length) // healed
			s := mustOpen(t, d.cfg)
			if s.Tip() != d.tip {
				t.Fatalf("healed store is at %s, want %s", s.Tip(), d.tip)
			}
			mustClose(t, s)
		})
	}
}

// TestMissingUnsealedSegment: the segment behind it proves that it was there.
func TestMissingUnsealedSegment(t *testing.T) {
	for _, test := range []struct {
		name     string
		before   func(w *world) error
		reported string // where the missing records should have begun; empty: the newest
	}{
		{"behind an unsealed one", (*world).flush, segmentName(1)},
		{"behind a sealed one", (*world).maintain, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 5, nil)
			for w.s.active == nil || w.s.active.id < 3 {
				if err := errors.Join(w.write(), w.flush()); err != nil {
					t.Fatal(err)
				}
				if w.s.active.id == 2 && len(w.s.active.changes) == 1 {
					if err := test.before(w); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := errors.Join(w.write(), w.flush()); err != nil {
				t.Fatal(err)
			}
			if test.reported == "" {
				test.reported = w.s.active.name
			}
			mem := w.mem.KillClone()
			if err := mem.Remove(path.Join(worldDir, segmentName(2))); err != nil {
				t.Fatal(err)
			}
			cfg := w.cfg
			cfg.FS = mem
			_, err := Open(cfg)
			wantCorrupt(t, err, ErrCorrupt, test.reported)
			wantReported(t, mem, test.reported)
		})
	}
}

// TestTornTailIsNotDamage: the last frame was not acknowledged by a later one.
func TestTornTailIsNotDamage(t *testing.T) {
	d := newDamagedStore(t)
	d.corrupt(t, d.unsealed, d.frames[7]+frameHeaderBytes, 1)
	report, err := Verify(context.Background(), Config{FS: d.mem, Dir: worldDir})
	if err != nil || !report.OK() {
		t.Fatalf("%+v, %v", report.Damage, err)
	}
	s := mustOpen(t, d.cfg)
	defer mustClose(t, s)
	if want := (Position{d.tip.Timeline, d.tip.Seq - 1}); s.Tip() != want {
		t.Fatalf("recovered %s, want %s", s.Tip(), want)
	}
}

// TestDamageInSealedSegment: damage in a record is found by whoever reads the
// record, and by Verify; the store opens without it.
func TestDamageInSealedSegment(t *testing.T) {
	t.Run("record", func(t *testing.T) {
		d := newDamagedStore(t)
		d.corrupt(t, d.sealed, blockBytes+frameHeaderBytes+5, 1)
		damage := wantReported(t, d.mem, d.sealed)
		if len(damage) != 1 || damage[0].Offset != blockBytes {
			t.Fatalf("%+v, want one damaged frame at %d", damage, blockBytes)
		}
		d.cfg.JournalBytes = 1
		s := mustOpen(t, d.cfg)
		defer mustClose(t, s)
		r, err := s.Records(d.start)
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Next(context.Background())
		wantCorrupt(t, err, ErrCorrupt, d.sealed)
		r.Close()
		if err := s.Unpin("start"); err != nil {
			t.Fatal(err)
		}
		if err := s.Maintain(context.Background()); err != nil {
			t.Fatalf("destage, of whose batch another record hides the damaged one: %v", err)
		}
	})
	for name, at := range map[string]func(*segment) int64{
		"header":  func(*segment) int64 { return 33 },
		"trailer": func(g *segment) int64 { return g.bytes - blockBytes + 40 },
		"footer":  func(g *segment) int64 { return (g.end+blockBytes-1)&^(blockBytes-1) + 3 },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDamagedStore(t)
			s := mustOpen(t, d.cfg)
			off := at(s.segments[1])
			mustClose(t, s)
			d.corrupt(t, d.sealed, off, 1)
			_, err := Open(d.cfg)
			c := wantCorrupt(t, err, ErrCorrupt, d.sealed)
			if c.Offset > off || c.Offset+blockBytes < off {
				t.Fatalf("damage at %d is reported at %d", off, c.Offset)
			}
			wantReported(t, d.mem, d.sealed)
		})
	}
	t.Run("truncated", func(t *testing.T) {
		d := newDamagedStore(t)
		f, err := d.mem.Open(path.Join(worldDir, d.sealed))
		if err == nil {
			err = errors.Join(f.Truncate(8192), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(d.cfg)
		wantCorrupt(t, err, ErrCorrupt, d.sealed)
		wantReported(t, d.mem, d.sealed)
	})
	t.Run("removed", func(t *testing.T) {
		d := newDamagedStore(t)
		if err := d.mem.Remove(path.Join(worldDir, d.sealed)); err != nil {
			t.Fatal(err)
		}
		_, err := Open(d.cfg)
		wantCorrupt(t, err, ErrCorrupt, d.sealed)
		wantReported(t, d.mem, d.sealed)
	})
}

// TestDestageStopsAtDamage, and nothing else does: the rest of the volume is read
// and written, and once the damaged bytes are overwritten destage goes on.
func TestDestageStopsAtDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	l := newLongRecords(t, 0)
	for i := range int64(8) {
		l.write(t, rng, i*8192, 8192)
	}
	l.seal(t)
	flip(t, l.mem, segmentName(1), blockBytes+3*frameBytes(8192)+frameHeaderBytes+100, 8)
	for range 2 {
		err := destageUnheld(l.s)
		wantCorrupt(t, err, ErrCorrupt, segmentName(1))
		failed := sectorsThatFail(t, l.s, l.image, 0, 16*8192)
		if len(failed) != 16 || failed[0] != 3*8192 {
			t.Fatalf("sectors at %d fail, want those of the fourth record", failed)
		}
	}
	if n := l.s.Stats().Damaged; n != 1 {
		t.Fatalf("%d places are known to be damaged, want 1", n)
	}
	l.write(t, rng, 3*8192, 8192)
	destageAll(t, l.s)
	l.read(t, 0, longVolumeBytes)
	if n := l.s.Stats().Damaged; n != 0 {
		t.Fatalf("%d places are known to be damaged, want none", n)
	}
	mustClose(t, l.s)
	if report, err := Verify(context.Background(), Config{FS: l.mem, Dir: worldDir}); err != nil || !report.OK() {
		t.Fatalf("%+v, %v", report.Damage, err)
	}
}

// TestVerifyFindsAllDamage: not just the first place.
func TestVerifyFindsAllDamage(t *testing.T) {
	d := newDamagedStore(t)
	s := mustOpen(t, d.cfg) // seals what was unsealed
	mustClose(t, s)
	d.corrupt(t, d.sealed, blockBytes+frameHeaderBytes, 1)
	d.corrupt(t, segmentName(2), blockBytes+frameHeaderBytes, 1)
	d.corrupt(t, d.unsealed, d.frames[2]+30, 1)
	d.corrupt(t, d.unsealed, d.frames[5]+frameHeaderBytes, 1)
	report, err := Verify(context.Background(), Config{FS: d.mem, Dir: worldDir})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]int64{}
	for _, x := range report.Damage {
		found[x.File] = append(found[x.File], x.Offset)
	}
	want := map[string][]int64{d.sealed: {blockBytes}, segmentName(2): {blockBytes}, d.unsealed: {d.frames[2], d.frames[5]}}
	for file, offsets := range want {
		if len(found[file]) != len(offsets) {
			t.Fatalf("found %v, want %v", found, want)
		}
		for i := range offsets {
			if found[file][i] != offsets[i] {
				t.Fatalf("found %v, want %v", found, want)
			}
		}
	}
	for _, g := range report.Segments {
		if g.Damaged != (want[g.File] != nil) {
			t.Fatalf("segment %+v", g)
		}
	}
}

// TestDamagedIdentity flips every byte of volume.json.
func TestDamagedIdentity(t *testing.T) {
	d := newDamagedStore(t)
	size, err := d.mem.Stat(path.Join(worldDir, volumeFile))
	if err != nil {
		t.Fatal(err)
	}
	for off := range size {
		d.corrupt(t, volumeFile, off, 1)
		_, err := Open(d.cfg)
		kind := ErrCorrupt
		if errors.Is(err, ErrVersion) {
			kind = ErrVersion
		}
		wantCorrupt(t, err, kind, volumeFile)
		wantReported(t, d.mem, volumeFile)
		d.corrupt(t, volumeFile, off, 1)
	}
	mustClose(t, mustOpen(t, d.cfg))
}

// TestDamagedCatalog flips every byte of every value of the catalog.
func TestDamagedCatalog(t *testing.T) {
	d := newDamagedStore(t)
	mustClose(t, mustOpen(t, d.cfg))
	type place struct{ bucket, key string }
	values := map[place][]byte{}
	name := path.Join(worldDir, catalogFile)
	useDB := func(use func(db kv.DB) error) {
		t.Helper()
		db, err := d.mem.OpenDB(name)
		if err == nil {
			err = errors.Join(use(db), db.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	useDB(func(db kv.DB) error {
		return db.View(func(tx kv.Tx) error {
			for _, bucket := range []string{bucketMeta, bucketTimelines, bucketSegments, bucketPins} {
				tx.Range(bucket, nil, func(key, value []byte) bool {
					values[place{bucket, string(key)}] = bytes.Clone(value)
					return true
				})
			}
			return nil
		})
	})
	if len(values) < 6 {
		t.Fatalf("catalog has %d values", len(values))
	}
	put := func(at place, value []byte) {
		useDB(func(db kv.DB) error {
			return db.Update(func(tx kv.Tx) error { return tx.Put(at.bucket, []byte(at.key), value) })
		})
	}
	for at, value := range values {
		for i := range value {
			flipped := bytes.Clone(value)
			flipped[i] ^= 0x20
			put(at, flipped)
			_, err := Open(d.cfg)
			wantCorrupt(t, err, ErrCorrupt, catalogFile)
			put(at, value)
		}
		put(at, value[:len(value)-1])
		wantReported(t, d.mem, catalogFile)
		put(at, value)
	}
	mustClose(t, mustOpen(t, d.cfg))
	if err := d.mem.Remove(name); err != nil {
		t.Fatal(err)
	}
	_, err := Open(d.cfg)
	wantCorrupt(t, err, ErrCorrupt, catalogFile)
	if _, err := d.mem.Stat(name); !errors.Is(err, vfs.ErrNotExist) {
		t.Fatal("Open made a catalog in place of the lost one")
	}
}

// TestForeignAndNewer: a segment of another volume, and formats of the future.
func TestForeignAndNewer(t *testing.T) {
	rewrite := func(t *testing.T, d *damagedStore, name string, change func(b []byte) []byte) {
		t.Helper()
		f, err := d.mem.Open(path.Join(worldDir, name))
		if err != nil {
			t.Fatal(err)
		}
		size, err := f.Size()
		b := make([]byte, min(size, blockBytes))
		if err == nil {
			_, err = f.ReadAt(b, 0)
		}
		if err == nil {
			_, err = f.WriteAt(change(b), 0)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	foreign := func(b []byte) []byte {
		h, err := decodeSegmentHeader(b)
		if err != nil {
			t.Fatal(err)
		}
		h.volume[0] ^= 1
		return h.encode()
	}
	newer := func(b []byte) []byte {
		b[12]++
		sealChecksum(b)
		return b
	}
	t.Run("foreign unsealed segment", func(t *testing.T) {
		d := newDamagedStore(t)
		rewrite(t, d, d.unsealed, foreign)
		_, err := Open(d.cfg)
		wantCorrupt(t, err, ErrForeign, d.unsealed)
	})
	t.Run("foreign sealed segment", func(t *testing.T) {
		d := newDamagedStore(t)
		rewrite(t, d, d.sealed, foreign)
		_, err := Open(d.cfg)
		wantCorrupt(t, err, ErrForeign, d.sealed)
		wantReported(t, d.mem, d.sealed)
	})
	t.Run("newer segment", func(t *testing.T) {
		d := newDamagedStore(t)
		rewrite(t, d, d.unsealed, newer)
		_, err := Open(d.cfg)
		wantCorrupt(t, err, ErrVersion, d.unsealed)
	})
	t.Run("newer store", func(t *testing.T) {
		d := newDamagedStore(t)
		rewrite(t, d, volumeFile, func(b []byte) []byte {
			version := func(n int) string { return fmt.Sprintf(`"version": %d`, n) }
			return []byte(strings.Replace(string(b), version(StoreFormatVersion), version(StoreFormatVersion+1), 1))
		})
		_, err := Open(d.cfg)
		wantCorrupt(t, err, ErrVersion, volumeFile)
	})
}

// TestOtherVolumesAreUnaffected: two stores side by side on one file system.
func TestOtherVolumesAreUnaffected(t *testing.T) {
	d := newDamagedStore(t)
	other := d.cfg
	other.Dir = "stores/other"
	if err := Create(other, Spec{VolumeID{9}, worldVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	d.corrupt(t, d.unsealed, d.frames[3]+30, 1)
	s := mustOpen(t, other)
	if _, err := Open(d.cfg); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("damaged store: %v", err)
	}
	if _, err := s.Write(make([]byte, SectorBytes), 0); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
}
