package journal

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"path"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// flip inverts bits of a file, also in a hole.
func flip(t *testing.T, mem *vfs.Mem, name string, off int64, mask byte) {
	t.Helper()
	f, err := mem.Open(path.Join(worldDir, name))
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], off)
	b[0] ^= mask
	if err == nil {
		_, err = f.WriteAt(b[:], off)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// destagedWorld is an open store of which most is in the base: random sectors,
// with zeroes among them.
func destagedWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := newWorld(t, seed, shortJournal)
	for len(w.s.segments) < 5 {
		if err := w.run([]step{{16, (*world).write}, {3, (*world).discard}}, 1); err != nil {
			t.Fatal(err)
		}
	}
	destageAll(t, w.s)
	for range 3 {
		if err := w.write(); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// destageUnheld moves all that nobody holds into the base, room or no room.
func destageUnheld(s *Store) error {
	s.pressed.Store(true)
	defer s.pressed.Store(false)
	return s.Maintain(context.Background())
}

// destageAll moves all records into the base.
func destageAll(t *testing.T, s *Store) {
	t.Helper()
	s.appendMu.Lock()
	s.retireActive()
	s.appendMu.Unlock()
	if err := destageUnheld(s); err != nil {
		t.Fatal(err)
	}
	if n := s.index.len(); n > 0 {
		t.Fatalf("%d extents are still in the journal", n)
	}
}

// sectorsThatFail reads a volume sector by sector. What is read must be right, and
// what is not must be named; it returns the sectors that were not.
func sectorsThatFail(t *testing.T, s *Store, image []byte, from, to int64) (failed []int64) {
	t.Helper()
	p := make([]byte, SectorBytes)
	for off := max(from, 0); off < min(to, int64(len(image))); off += SectorBytes {
		clear(p)
		err := s.ReadAt(p, off)
		done, tryErr := s.TryReadAt(bytes.Clone(p), off)
		switch {
		case tryErr != nil:
			t.Fatalf("try to read at %d: %v", off, tryErr)
		case errors.Is(err, ErrCorrupt):
			if done {
				t.Fatalf("TryReadAt gave damaged bytes at %d away", off)
			}
			failed = append(failed, off)
		case err != nil:
			t.Fatalf("read at %d: %v", off, err)
		case !bytes.Equal(p, image[off:off+SectorBytes]):
			t.Fatalf("wrong bytes at %d", off)
		}
	}
	return failed
}

// TestEveryByteOfTheBaseFlipped: the sector is named, and no other fails.
func TestEveryByteOfTheBaseFlipped(t *testing.T) {
	w := destagedWorld(t, 3)
	image := w.m.image()
	if failed := sectorsThatFail(t, w.s, image, 0, worldVolumeBytes); len(failed) > 0 {
		t.Fatalf("sectors at %d fail in an undamaged store", failed)
	}
	found := 0
	check := func(name string, at, sector int64) {
		t.Helper()
		mask := byte(1) << (at % 8)
		flip(t, w.mem, name, at, mask)
		failed := sectorsThatFail(t, w.s, image, sector-SectorBytes, sector+2*SectorBytes)
		if len(failed) > 1 || len(failed) == 1 && failed[0] != sector {
			t.Fatalf("byte %d of %s flipped: sectors at %d fail, want at most that at %d", at, name, failed, sector)
		}
		if len(failed) == 1 {
			found++
			damaged := w.s.Damaged()
			if len(damaged) == 0 || damaged[len(damaged)-1].File != baseFile {
				t.Fatalf("byte %d of %s flipped: damage known is %v", at, name, damaged)
			}
		}
		flip(t, w.mem, name, at, mask)
	}
	for at := range int64(worldVolumeBytes) {
		check(baseFile, at, at&^(SectorBytes-1))
	}
	if found < worldVolumeBytes/4 {
		t.Fatalf("%d of %d flipped bytes of the base were met; the rest must be hidden by the journal", found, worldVolumeBytes)
	}
	before := found
	for at := range sumOffset(worldVolumeBytes) {
		check(baseSumsFile, at, at/sumBytes*SectorBytes)
	}
	if found-before < int(sumOffset(worldVolumeBytes)/4) {
		t.Fatalf("%d flipped bytes of %s were met", found-before, baseSumsFile)
	}
	if failed := sectorsThatFail(t, w.s, image, 0, worldVolumeBytes); len(failed) > 0 {
		t.Fatalf("sectors at %d fail after all was flipped back", failed)
	}
	mustClose(t, w.s)
}

// TestDamagedBaseIsReportedAndHealed: by Verify, in the figures, and healed by a
// write of the sector once it is destaged.
func TestDamagedBaseIsReportedAndHealed(t *testing.T) {
	w := destagedWorld(t, 5)
	failed := int64(-1)
	for at := int64(0); at < worldVolumeBytes && failed < 0; at += SectorBytes {
		flip(t, w.mem, baseFile, at+9, 4)
		if all := sectorsThatFail(t, w.s, w.m.image(), at, at+SectorBytes); len(all) == 1 {
			failed = at
			break
		}
		flip(t, w.mem, baseFile, at+9, 4)
	}
	if w.s.Stats().Damaged != 1 || w.s.Damaged()[0].Offset != failed {
		t.Fatalf("damage known is %v, want one place at %d", w.s.Damaged(), failed)
	}
	mustClose(t, w.s)
	damage := wantReported(t, w.mem, baseFile)
	if len(damage) != 1 || damage[0].Offset != failed {
		t.Fatalf("Verify reports %+v, want the sector at %d", damage, failed)
	}
	if err := w.open(); err != nil {
		t.Fatalf("a store with a damaged sector does not open: %v", err)
	}
	if _, err := w.s.Write(bytes.Repeat([]byte{7}, SectorBytes), failed); err != nil {
		t.Fatal(err)
	}
	w.m.images[w.s.Tip()] = w.m.after(bytes.Repeat([]byte{7}, SectorBytes), failed)
	w.m.tip = w.s.Tip()
	if all := sectorsThatFail(t, w.s, w.m.image(), 0, worldVolumeBytes); len(all) > 0 {
		t.Fatalf("sectors at %d fail although they were overwritten", all)
	}
	destageAll(t, w.s)
	if w.s.Stats().Damaged != 0 {
		t.Fatalf("damage known is %v, want none", w.s.Damaged())
	}
	if all := sectorsThatFail(t, w.s, w.m.image(), 0, worldVolumeBytes); len(all) > 0 {
		t.Fatalf("sectors at %d fail after they were destaged", all)
	}
	mustClose(t, w.s)
	if report, err := Verify(context.Background(), Config{FS: w.mem, Dir: worldDir, JournalDir: w.cfg.JournalDir}); err != nil || !report.OK() {
		t.Fatalf("%+v, %v", report.Damage, err)
	}
}

// TestLostChecksums: without their file the base cannot be read, and Open says so.
func TestLostChecksums(t *testing.T) {
	for name, lose := range map[string]func(mem *vfs.Mem, file string) error{
		"removed": (*vfs.Mem).Remove,
		"cut": func(mem *vfs.Mem, file string) error {
			f, err := mem.Open(file)
			if err != nil {
				return err
			}
			return errors.Join(f.Truncate(sumOffset(worldVolumeBytes)-1), f.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := destagedWorld(t, 6)
			mustClose(t, w.s)
			if err := lose(w.mem, path.Join(worldDir, baseSumsFile)); err != nil {
				t.Fatal(err)
			}
			wantCorrupt(t, w.open(), ErrCorrupt, baseSumsFile)
			wantReported(t, w.mem, baseSumsFile)
		})
	}
}

// TestSumsOfAnotherVolume: the file says of every sector that it is not its own.
func TestSumsOfAnotherVolume(t *testing.T) {
	p := goldenSectors()
	mine, other := newBaseSums(nil, VolumeID{1}), newBaseSums(nil, VolumeID{2})
	var c sumScratch
	if d := mine.firstDamage(&sumScratch{}, p, 0, mine.encode(&c, p, 0)); d.length != 0 {
		t.Errorf("own entries: damage %+v", d)
	}
	if d := mine.firstDamage(&sumScratch{}, p, 0, other.encode(&c, p, 0)); d.off != 0 || d.length != SectorBytes {
		t.Errorf("another volume's entries: damage %+v, want the first sector", d)
	}
	if d := mine.firstDamage(&sumScratch{}, p, SectorBytes, mine.encode(&c, p, 0)); d.off != SectorBytes || d.length != SectorBytes {
		t.Errorf("entries of the place before: damage %+v, want the first sector", d)
	}
	zeroes := make([]byte, len(p))
	if d := mine.firstDamage(&sumScratch{}, zeroes, 0, other.encode(&c, zeroes, 0)); d.length != 0 {
		t.Errorf("zeroes: damage %+v", d)
	}
}

// TestImportedBaseIsChecked, whatever the pieces in which it came.
func TestImportedBaseIsChecked(t *testing.T) {
	mem := vfs.NewMem()
	makeParent(t, mem)
	cfg := Config{FS: mem, Dir: worldDir, SegmentBytes: MinSegmentBytes}
	im, err := NewImport(cfg, Spec{testVolume, worldVolumeBytes}, Position{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(4, 4))
	image := make([]byte, worldVolumeBytes)
	for range 40 {
		off, length := rng.Int64N(worldVolumeBytes), rng.Int64N(3000)
		p := randomBytes(rng, min(length, worldVolumeBytes-off))
		copy(image[off:], p)
		if err := im.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := im.Commit(); err != nil {
		t.Fatal(err)
	}
	report, err := Verify(context.Background(), Config{FS: mem, Dir: worldDir})
	if err != nil || !report.OK() || report.SummedBytes != worldVolumeBytes {
		t.Fatalf("%d bytes have checksums, damage %+v, %v", report.SummedBytes, report.Damage, err)
	}
	s := mustOpen(t, cfg)
	defer mustClose(t, s)
	if failed := sectorsThatFail(t, s, image, 0, worldVolumeBytes); len(failed) > 0 {
		t.Fatalf("sectors at %d fail", failed)
	}
	flip(t, mem, baseFile, 4097, 1)
	if failed := sectorsThatFail(t, s, image, 0, worldVolumeBytes); len(failed) != 1 || failed[0] != 4096 {
		t.Fatalf("sectors at %d fail, want that at 4096", failed)
	}
}

// pausedReads is a file system that calls a function once, before a read of a
// file.
type pausedReads struct {
	vfs.FS
	name  string
	pause func()
}

func (p *pausedReads) Open(name string) (vfs.File, error) {
	f, err := p.FS.Open(name)
	if err == nil && path.Base(name) == p.name {
		f = &pausedFile{f, p}
	}
	return f, err
}

type pausedFile struct {
	vfs.File
	of *pausedReads
}

func (f *pausedFile) ReadAt(p []byte, off int64) (int, error) {
	if pause := f.of.pause; pause != nil {
		f.of.pause = nil
		pause()
	}
	return f.File.ReadAt(p, off)
}

// TestReadThatDestageOvertakes: a sector is read from the base and written there
// before its checksum is read. That is no damage.
func TestReadThatDestageOvertakes(t *testing.T) {
	mem := vfs.NewMem()
	makeParent(t, mem)
	fs := &pausedReads{FS: mem, name: baseSumsFile}
	cfg := Config{FS: fs, Dir: worldDir, SegmentBytes: MinSegmentBytes}
	if err := Create(cfg, Spec{testVolume, worldVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, cfg)
	defer mustClose(t, s)
	put := func(b byte) {
		if _, err := s.Write(bytes.Repeat([]byte{b}, SectorBytes), 0); err != nil {
			t.Error(err)
		}
		destageAll(t, s)
	}
	put(1)
	overtaken := false
	fs.pause = func() {
		put(2)
		overtaken = true
	}
	p := make([]byte, SectorBytes)
	if err := s.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	if !overtaken || p[0] != 2 {
		t.Fatalf("read %d, overtaken %t; want 2 from the base", p[0], overtaken)
	}
	if damaged := s.Damaged(); len(damaged) > 0 {
		t.Fatalf("damage %v", damaged)
	}
}
