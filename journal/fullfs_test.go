package journal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

const (
	boundedFSBytes     = 400 << 20
	boundedVolumeBytes = 64 << 20
	boundedBlockBytes  = 64 << 10
	// fullChildEnv has a run of the test binary be the owner of a store that is
	// going to be killed.
	fullChildEnv = "LOCKSTEP_TEST_FULL_STORE"
)

// boundedFS is a real file system in a file, mounted while the test runs.
type boundedFS struct {
	t          *testing.T
	kind       string
	image, dir string
	ballast    int // files that take its space
}

// boundedFileSystems are those that stores are filled on. The last has room, and a
// quota that has not.
var boundedFileSystems = []struct {
	name, kind string
	mkfs       []string
	grow       []string // the mount point is appended; nil: what fills it is removed, or the quota raised
	// A quota is what is short; it copies what is written over.
	quota, copies bool
}{
	{"ext4", "ext4", []string{"mkfs.ext4", "-q", "-F"}, nil, false, false},
	{"xfs", "xfs", []string{"mkfs.xfs", "-q", "-f"}, []string{"xfs_growfs"}, false, false},
	{"btrfs", "btrfs", []string{"mkfs.btrfs", "-q", "-f", "-m", "single"}, []string{"btrfs", "filesystem", "resize", "max"}, false, true},
	{"btrfs quota", "btrfs", []string{"mkfs.btrfs", "-q", "-f", "-m", "single"}, nil, true, true},
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func newBoundedFS(t *testing.T, kind string, mkfs []string) *boundedFS {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("not root: a full %s was not tried", kind)
	}
	if _, err := exec.LookPath(mkfs[0]); err != nil {
		t.Skipf("a full %s was not tried: %v: run tests/setup.sh", kind, err)
	}
	root := t.TempDir()
	b := &boundedFS{t: t, kind: kind, image: filepath.Join(root, "image"), dir: filepath.Join(root, "mount")}
	if err := errors.Join(os.Mkdir(b.dir, 0o700), os.WriteFile(b.image, nil, 0o600), os.Truncate(b.image, boundedFSBytes)); err != nil {
		t.Fatal(err)
	}
	command(t, mkfs[0], append(mkfs[1:], b.image)...)
	if out, err := exec.Command("mount", "-o", "loop", b.image, b.dir).CombinedOutput(); err != nil {
		t.Skipf("a full %s was not tried: mount: %v: %s", kind, err, out)
	}
	t.Cleanup(func() { command(t, "umount", b.dir) }) // which detaches the loop device
	return b
}

// fill takes all that is free but some bytes away.
func (b *boundedFS) fill(leave int64) {
	b.t.Helper()
	for step := int64(64 << 20); step >= 4096; {
		_, free, err := vfs.OS{}.Space(b.dir)
		if err != nil {
			b.t.Fatal(err)
		}
		if leave > 0 && free-leave < step {
			step /= 2
			continue
		}
		b.ballast++
		name := b.ballastFile(b.ballast)
		f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			err = unix.Fallocate(int(f.Fd()), 0, 0, step)
			err = errors.Join(err, f.Close())
		}
		switch {
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
			_ = os.Remove(name)
			b.ballast--
			step /= 2
		case err != nil:
			b.t.Fatal(err)
		}
	}
}

func (b *boundedFS) ballastFile(n int) string { return filepath.Join(b.dir, fmt.Sprint("ballast", n)) }

// empty gives it back.
func (b *boundedFS) empty() {
	for ; b.ballast > 0; b.ballast-- {
		if err := os.Remove(b.ballastFile(b.ballast)); err != nil {
			b.t.Fatal(err)
		}
	}
}

// grow makes the file system larger while it is in use.
func (b *boundedFS) grow(tool []string) {
	b.t.Helper()
	if err := os.Truncate(b.image, 2*boundedFSBytes); err != nil {
		b.t.Fatal(err)
	}
	command(b.t, "losetup", "-c", command(b.t, "findmnt", "-n", "-o", "SOURCE", b.dir))
	command(b.t, tool[0], append(tool[1:], b.dir)...)
}

func boundedConfig(dir string) Config {
	return Config{FS: vfs.OS{}, Dir: dir, SegmentBytes: 4 << 20}
}

// fullVolume writes a rising number into blocks and knows which are flushed.
type fullVolume struct {
	s      *Store
	count  uint64
	blocks [boundedVolumeBytes / boundedBlockBytes]uint64
}

// write writes block i as an engine does.
func (v *fullVolume) write(i int) error {
	p := make([]byte, boundedBlockBytes)
	for off := 0; off < len(p); off += SectorBytes {
		binary.LittleEndian.PutUint64(p[off:], v.count+1)
		binary.LittleEndian.PutUint64(p[off+8:], uint64(i))
	}
	_, err := v.s.Write(p, int64(i)*boundedBlockBytes)
	if errors.Is(err, ErrFull) {
		if _, reclaimErr := v.s.Reclaim(context.Background()); reclaimErr == nil {
			_, err = v.s.Write(p, int64(i)*boundedBlockBytes)
		}
	}
	if err == nil {
		v.count++
		v.blocks[i] = v.count
	}
	return err
}

// check compares all blocks; a block may be newer where loose.
func (v *fullVolume) check(loose bool) error {
	p := make([]byte, boundedBlockBytes)
	for i, want := range v.blocks {
		if err := v.s.ReadAt(p, int64(i)*boundedBlockBytes); err != nil {
			return err
		}
		got, at := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
		if got < want || got > want && !loose || got > 0 && at != uint64(i) {
			return fmt.Errorf("block %d has number %d of block %d, want %d", i, got, at, want)
		}
	}
	return nil
}

// TestFullRealFileSystems fills real file systems, by history and then from
// outside, kills the owner of the store meanwhile, and gives the space back.
func TestFullRealFileSystems(t *testing.T) {
	if dir := os.Getenv(fullChildEnv); dir != "" {
		ownFullStore(t, dir)
		return
	}
	for _, kind := range boundedFileSystems {
		t.Run(kind.name, func(t *testing.T) {
			b := newBoundedFS(t, kind.kind, kind.mkfs)
			dir := filepath.Join(b.dir, "volume")
			if kind.quota {
				command(t, "btrfs", "quota", "enable", b.dir)
				command(t, "btrfs", "subvolume", "create", dir)
			} else if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			cfg := boundedConfig(filepath.Join(dir, "store"))
			if err := Create(cfg, Spec{testVolume, boundedVolumeBytes}); err != nil {
				t.Fatal(err)
			}
			v := &fullVolume{s: mustOpen(t, cfg)}
			t.Cleanup(func() { _ = v.s.Close() }) // of a test that failed, so that its file system can go

			b.leave(48<<20, kind.quota, dir)
			v.fillByHistory(t, kind.copies)
			b.leave(0, kind.quota, dir)
			if refused := v.writeAll(t); refused == 0 {
				t.Fatal("all of the volume had room")
			}
			if err := v.check(false); err != nil {
				t.Fatal(err)
			}
			if err := v.s.Close(); err != nil && !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			v.openFull(t, cfg, dir, kind.copies)

			switch {
			case kind.quota:
				b.limit("none", dir)
			case kind.grow != nil:
				b.grow(kind.grow)
			default:
				b.empty()
			}
			v.checkRoom(t, cfg)
		})
	}
}

// leave has a volume's directory find so much room, by a quota or because what is
// beyond it is taken.
func (b *boundedFS) leave(bytes int64, quota bool, dir string) {
	if quota {
		b.limit(strconv.FormatInt(max(40<<20, bytes), 10), dir)
		return
	}
	b.fill(bytes)
}

// limit sets a subvolume's quota, by way of the file system's root: the subvolume
// may have no room for the change itself.
func (b *boundedFS) limit(bytes, dir string) {
	id := command(b.t, "btrfs", "inspect-internal", "rootid", dir)
	command(b.t, "btrfs", "qgroup", "limit", bytes, "0/"+id, b.dir)
}

// fillByHistory writes 160 MiB over the first 16, of which no write may be refused;
// but a file system that writes elsewhere needs room of its own.
func (v *fullVolume) fillByHistory(t *testing.T, copies bool) {
	t.Helper()
	for i := range (160 << 20) / boundedBlockBytes {
		err := v.write(i * 7 % ((16 << 20) / boundedBlockBytes))
		if err != nil && !(copies && errors.Is(err, ErrFull)) {
			t.Fatalf("write %d: %v", i, err)
		}
		if i%16 == 15 {
			maintainFull(t, v)
		}
	}
	if v.s.Stats().Space.GivenUpBytes == 0 && !copies {
		t.Error("no history was given up")
	}
}

// openFull has another process own the full store, which is killed, and opens it.
// Where sealing what was being written needs room, it does not open, and says so.
func (v *fullVolume) openFull(t *testing.T, cfg Config, dir string, copies bool) {
	t.Helper()
	if !copies {
		killFullStore(t, v, dir)
	}
	s, err := Open(cfg)
	if copies && errors.Is(err, ErrFull) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	v.s = s
	if err := v.check(true); err != nil {
		t.Fatalf("after a kill: %v", err)
	}
	if err := v.s.Close(); err != nil && !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
}

// checkRoom makes sure that all is as ever.
func (v *fullVolume) checkRoom(t *testing.T, cfg Config) {
	t.Helper()
	v.s = mustOpen(t, cfg)
	if err := v.check(true); err != nil {
		t.Fatal(err)
	}
	if refused := v.writeAll(t); refused > 0 {
		t.Errorf("%d writes were refused after there was room again", refused)
	}
	if err := v.check(true); err != nil {
		t.Fatal(err)
	}
	mustClose(t, v.s)
	report, err := Verify(context.Background(), cfg)
	if err != nil || !report.OK() {
		t.Errorf("verify: %+v, %v", report, err)
	}
}

// maintainFull flushes and maintains: neither may fail but for lack of space.
func maintainFull(t *testing.T, v *fullVolume) {
	t.Helper()
	if err := v.s.Flush(context.Background()); err != nil {
		t.Fatalf("flush: %v", err)
	}
	if err := v.s.Maintain(context.Background()); err != nil && !errors.Is(err, ErrFull) {
		t.Fatalf("maintain: %v", err)
	}
}

// writeAll writes every block once and returns how many were refused.
func (v *fullVolume) writeAll(t *testing.T) (refused int) {
	t.Helper()
	for i := range v.blocks {
		switch err := v.write(i); {
		case errors.Is(err, ErrFull):
			refused++
		case err != nil:
			t.Fatalf("write block %d: %v", i, err)
		}
		if i%16 == 15 {
			maintainFull(t, v)
		}
	}
	return refused
}

// ownFullStore writes to a store until it is killed, and says what is durable.
func ownFullStore(t *testing.T, dir string) {
	s, err := Open(boundedConfig(filepath.Join(dir, "store")))
	if err != nil {
		t.Fatal(err)
	}
	v := &fullVolume{s: s, count: 1 << 32}
	for {
		for i := range v.blocks {
			err := v.write(i)
			if err == nil {
				err = s.Flush(context.Background())
			}
			if err != nil && !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			fmt.Printf("block %d %d\n", i, v.blocks[i])
		}
	}
}

// killFullStore has a process of its own write to the store, and kills it once it
// has tried every block. What it says is durable goes into v.
func killFullStore(t *testing.T, v *fullVolume, dir string) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestFullRealFileSystems$", "-test.count=1")
	child.Env = append(os.Environ(), fullChildEnv+"="+dir)
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines, seen, other := bufio.NewScanner(out), 0, bytes.Buffer{}
	for seen < len(v.blocks)+3 && lines.Scan() {
		word := strings.Fields(lines.Text())
		if len(word) != 3 || word[0] != "block" {
			other.WriteString(lines.Text() + "\n")
			continue
		}
		i, err := strconv.Atoi(word[1])
		count, err2 := strconv.ParseUint(word[2], 10, 64)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		v.blocks[i] = max(v.blocks[i], count)
		seen++
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	if seen < len(v.blocks) {
		t.Fatalf("the owner of the full store stopped after %d blocks: %s", seen, other.String())
	}
}
