package journal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

const testImage = "images/disk.img"

// newImage makes a file system with an image and returns what is in it.
func newImage(t *testing.T) (*vfs.Mem, []byte) {
	t.Helper()
	mem := vfs.NewMem()
	makeParent(t, mem)
	content := randomBytes(rand.New(rand.NewPCG(1, 2)), worldVolumeBytes)
	if err := errors.Join(mem.MkdirAll("images"), mem.SyncDir(".")); err != nil {
		t.Fatal(err)
	}
	f, err := mem.Create(testImage)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(content, 0)
	if err = errors.Join(err, f.Sync(), f.Close(), mem.SyncDir("images")); err != nil {
		t.Fatal(err)
	}
	return mem, content
}

func worldConfig(fs vfs.FS) Config {
	return Config{FS: fs, Dir: worldDir, SegmentBytes: MinSegmentBytes, Random: randomReader{rand.New(rand.NewPCG(3, 4))}}
}

func TestTakeImage(t *testing.T) {
	mem, content := newImage(t)
	cfg := worldConfig(mem)
	if err := TakeImage(cfg, Spec{testVolume, worldVolumeBytes}, testImage); err != nil {
		t.Fatal(err)
	}
	if _, err := mem.Stat(testImage); !errors.Is(err, vfs.ErrNotExist) {
		t.Errorf("the image's old name: %v", err)
	}
	s := mustOpen(t, cfg)
	if got := readAll(t, s, s.SizeBytes()); !bytes.Equal(got, content) {
		t.Error("the volume is not the image")
	}
	if _, err := s.Write(make([]byte, SectorBytes), 0); err != nil {
		t.Error(err)
	}
	mustClose(t, s)
	if err := TakeImage(cfg, Spec{testVolume, worldVolumeBytes}, testImage); !errors.Is(err, ErrExists) {
		t.Errorf("over a store: %v", err)
	}
}

// TestTakeImageRefuses: nothing may have changed then.
func TestTakeImageRefuses(t *testing.T) {
	mem, content := newImage(t)
	for name, size := range map[string]int64{"of another size": worldVolumeBytes * 2, "of no whole sectors": 1000, "of nothing": 0, "too large": maxVolumeBytes + SectorBytes} {
		if err := TakeImage(worldConfig(mem), Spec{testVolume, size}, testImage); !errors.Is(err, ErrRange) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := TakeImage(worldConfig(mem), Spec{testVolume, worldVolumeBytes}, "images/none"); !errors.Is(err, vfs.ErrNotExist) {
		t.Errorf("no image: %v", err)
	}
	if got, err := contentOf(mem, testImage); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the image has changed: %v", err)
	}
	if _, err := mem.Stat(worldDir + "/" + baseFile); !errors.Is(err, vfs.ErrNotExist) {
		t.Errorf("a second name is left: %v", err)
	}
}

// TestCrashWhileTakingAnImage cuts the power and kills the process at every
// operation: the image is under its old name, or the store is whole, and another
// attempt makes the store.
func TestCrashWhileTakingAnImage(t *testing.T) {
	spec := Spec{testVolume, worldVolumeBytes}
	for k := int64(1); ; k++ {
		mem, content := newImage(t)
		fault, chance := vfs.NewFault(mem), rand.New(rand.NewPCG(5, uint64(k)))
		fault.CrashTornAt(k, chance)
		err := TakeImage(worldConfig(fault), spec, testImage)
		if err == nil {
			if k < 10 {
				t.Fatalf("only %d operations", k)
			}
			return
		}
		if !errors.Is(err, vfs.ErrCrashed) {
			t.Fatalf("operation %d: %v", k, err)
		}
		kill := mem.KillClone()
		checkFinished(t, mem.KillClone(), content, k)
		left := []*vfs.Mem{kill, mem.Crash(chance), mem.CrashWith(nil, vfs.CrashOptions{LoseAll: true}), mem.CrashWith(nil, vfs.CrashOptions{KeepAll: true})}
		for i, after := range left {
			checkTaken(t, after, content, k, i)
		}
	}
}

// checkFinished takes the old name away if the process was killed when the store was whole, and
// cuts the power then.
func checkFinished(t *testing.T, mem *vfs.Mem, content []byte, k int64) {
	t.Helper()
	_, imageErr := mem.Stat(testImage)
	if !IsStore(mem, worldDir) || imageErr != nil {
		return
	}
	if err := LeaveName(worldConfig(mem), testImage); err != nil {
		t.Fatalf("operation %d: leave the old name: %v", k, err)
	}
	s, err := Open(worldConfig(mem.CrashWith(nil, vfs.CrashOptions{LoseAll: true})))
	if err != nil {
		t.Fatalf("operation %d: the image has no name any more, and there is no store: %v", k, err)
	}
	if got := readAll(t, s, s.SizeBytes()); !bytes.Equal(got, content) {
		t.Fatalf("operation %d: the store is not the image", k)
	}
	mustClose(t, s)
}

func checkTaken(t *testing.T, mem *vfs.Mem, content []byte, k int64, i int) {
	t.Helper()
	image, imageErr := contentOf(mem, testImage)
	err := TakeImage(worldConfig(mem), Spec{testVolume, worldVolumeBytes}, testImage)
	switch {
	case err == nil: // it was no store yet
		if imageErr != nil || !bytes.Equal(image, content) {
			t.Fatalf("operation %d, outcome %d: neither image nor store: %v", k, i, imageErr)
		}
	case !errors.Is(err, ErrExists):
		t.Fatalf("operation %d, outcome %d: another attempt: %v", k, i, err)
	}
	s := mustOpen(t, worldConfig(mem))
	if got := readAll(t, s, s.SizeBytes()); !bytes.Equal(got, content) {
		t.Fatalf("operation %d, outcome %d: the store is not the image", k, i)
	}
	mustClose(t, s)
}
