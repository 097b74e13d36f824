package journal

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// sizeAt returns the size of the view at a position, which must be what SizeAt
// says.
func sizeAt(t *testing.T, s *Store, at Position) int64 {
	t.Helper()
	v, err := s.View(at)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	size, err := s.SizeAt(at)
	if err != nil {
		t.Fatal(err)
	}
	if size != v.SizeBytes() {
		t.Fatalf("SizeAt %s is %d, the view has %d bytes", at, size, v.SizeBytes())
	}
	return size
}

// growTwice returns a store with a position before each of two expansions and
// behind them, and their sizes.
func growTwice(t *testing.T, w *world) (at []Position, sizes []int64) {
	t.Helper()
	for i := range int64(3) {
		if i > 0 {
			if _, err := w.s.Resize((i + 1) * worldVolumeBytes); err != nil {
				t.Fatal(err)
			}
		}
		pos, err := w.s.Write(make([]byte, SectorBytes), i*worldVolumeBytes)
		if err != nil {
			t.Fatal(err)
		}
		at, sizes = append(at, pos), append(sizes, (i+1)*worldVolumeBytes)
	}
	return at, sizes
}

func checkSizes(t *testing.T, s *Store, at []Position, sizes []int64) {
	t.Helper()
	for i, pos := range at {
		if got := sizeAt(t, s, pos); got != sizes[i] {
			t.Errorf("size at %s is %d, want %d", pos, got, sizes[i])
		}
	}
}

func TestAViewHasTheSizeOfItsMoment(t *testing.T) {
	w := newWorld(t, 1, nil)
	at, sizes := growTwice(t, w)
	checkSizes(t, w.s, at, sizes)
	if err := w.reopen(); err != nil { // the sizes are the sealed segments' now
		t.Fatal(err)
	}
	checkSizes(t, w.s, at, sizes)
	mustClose(t, w.s)
}

// TestRewindKeepsTheDevicesSize: a device does not shrink under its file
// system. What is written on the new timeline has the present size.
func TestRewindKeepsTheDevicesSize(t *testing.T) {
	w := newWorld(t, 1, nil)
	at, _ := growTwice(t, w)
	if _, err := w.s.Fork(at[0], "rewind"); err != nil {
		t.Fatal(err)
	}
	fork := w.s.Tip()
	if got := w.s.SizeBytes(); got != 3*worldVolumeBytes {
		t.Errorf("the live volume has %d bytes after a rewind, want its present size", got)
	}
	if got := sizeAt(t, w.s, fork); got != worldVolumeBytes {
		t.Errorf("the fork's position has %d bytes, want those of its moment", got)
	}
	behind := make([]byte, worldVolumeBytes)
	if err := w.s.ReadAt(behind, worldVolumeBytes); err != nil {
		t.Fatal(err)
	}
	if !sameImage(behind, nil) {
		t.Error("what lies beyond the size of the moment does not read as zeroes")
	}
	pos, err := w.s.Write(randomBytes(w.rng, SectorBytes), 3*worldVolumeBytes-SectorBytes)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := sizeAt(t, w.s, pos); got != 3*worldVolumeBytes {
			t.Errorf("a position behind the rewind has %d bytes, want the device's", got)
		}
		if err := w.reopen(); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, w.s)
}

// TestSizesSurviveDestage: the size at the base is the catalog's.
func TestSizesSurviveDestage(t *testing.T) {
	w := newWorld(t, 1, shortJournal)
	at, sizes := growTwice(t, w)
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
	if err := w.s.Pin("old", at[1]); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for range 24 {
			if _, err := w.s.Write(randomBytes(w.rng, 64<<10), 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.s.Maintain(context.Background()); err != nil {
			t.Fatal(err)
		}
		checkSizes(t, w.s, at[1:2], sizes[1:2])
		if err := w.reopen(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.s.Unpin("old"); err != nil {
		t.Fatal(err)
	}
	if err := w.s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.s.View(at[2]); err == nil {
		t.Fatal("nothing was destaged")
	}
	if got := sizeAt(t, w.s, w.s.Horizon()); got != 3*worldVolumeBytes {
		t.Errorf("the horizon has %d bytes, want %d", got, 3*worldVolumeBytes)
	}
	mustClose(t, w.s)
}

// downgrade makes a closed store one of format version 1, as a program of that
// version would have left it.
func downgrade(t *testing.T, w *world) {
	t.Helper()
	db, err := w.mem.OpenDB(worldDir + "/" + catalogFile)
	if err != nil {
		t.Fatal(err)
	}
	c := catalog{db}
	content, err := c.load(func(err error) bool { t.Fatal(err); return false })
	if err != nil {
		t.Fatal(err)
	}
	content.state.BaseBytes, content.state.Summed = 0, 0
	err = c.update(func(tx kv.Tx) error {
		for id, e := range content.segments {
			e.Sizes = nil
			if err := c.saveSegment(tx, id, e); err != nil {
				return err
			}
		}
		return c.saveState(tx, content.state)
	})
	if err = errors.Join(err, db.Close(), w.mem.RemoveAll(worldDir+"/"+volumeFile), w.mem.RemoveAll(worldDir+"/"+baseSumsFile)); err != nil {
		t.Fatal(err)
	}
	old := newIdentity(testVolume, worldStart, "")
	old.Version = 1
	cfg := w.cfg
	cfg.FS = w.mem
	b, err := old.encode()
	if err = errors.Join(err, writeTemp(&cfg, volumeFile, b), publish(&cfg, volumeFile)); err != nil {
		t.Fatal(err)
	}
}

// TestUpgradeOfVersion1: an old store opens, whenever an earlier attempt was
// cut short, and from then on no program of version 1 opens it. Its past has
// the size that the volume had at the upgrade.
func TestUpgradeOfVersion1(t *testing.T) {
	w := newWorld(t, 1, nil)
	at, _ := growTwice(t, w)
	if err := w.s.Close(); err != nil {
		t.Fatal(err)
	}
	downgrade(t, w)
	for k := int64(1); ; k++ {
		chance := rand.New(rand.NewPCG(uint64(k), 3))
		branch := &world{t: t, cfg: w.cfg}
		branch.mount(w.mem.KillClone())
		branch.fault.CrashTornAt(k, chance)
		err := branch.open()
		if err != nil && !errors.Is(err, vfs.ErrCrashed) {
			t.Fatalf("operation %d: %v", k, err)
		}
		branch.mount(branch.mem.Crash(chance))
		if err := branch.open(); err != nil {
			t.Fatalf("operation %d: open after the crash: %v", k, err)
		}
		if id, err := readIdentity(&branch.cfg); err != nil || id.Version != StoreFormatVersion || !id.Created.Equal(worldStart) {
			t.Fatalf("operation %d: identity is %+v, %v", k, id, err)
		}
		present := int64(3 * worldVolumeBytes)
		checkSizes(t, branch.s, at, []int64{present, present, present})
		if _, err := branch.s.Resize(2 * present); err != nil {
			t.Fatal(err)
		}
		mustClose(t, branch.s)
		if err := branch.open(); err != nil {
			t.Fatal(err)
		}
		checkSizes(t, branch.s, append(at, branch.s.Tip()), []int64{present, present, present, 2 * present})
		mustClose(t, branch.s)
		if err == nil {
			return
		}
	}
}

// TestManySizesInOneSegment: a segment takes a bounded number of changes, and
// another begins.
func TestManySizesInOneSegment(t *testing.T) {
	w := newWorld(t, 1, nil)
	var at []Position
	var sizes []int64
	for i := range int64(2*maxSegmentSizes + 5) {
		size := worldVolumeBytes + (i+1)*SectorBytes
		pos, err := w.s.Resize(size)
		if err != nil {
			t.Fatal(err)
		}
		at, sizes = append(at, pos), append(sizes, size)
	}
	if err := w.reopen(); err != nil {
		t.Fatal(err)
	}
	if n := len(w.s.segments); n != 3 {
		t.Errorf("%d segments, want 3", n)
	}
	checkSizes(t, w.s, at, sizes)
	mustClose(t, w.s)
}
