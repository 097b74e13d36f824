package integration

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// TestDamageIsRepairedFromThePeer changes bytes in the segments of a volume in use.
// Its primary gets them back from the other site, and whoever reads the device reads
// what was written.
func TestDamageIsRepairedFromThePeer(t *testing.T) {
	ctx, env := newEnv(t)
	pair := must(env.StartPair(ctx))(t)
	v := newBlockVolumes(ctx, t, pair.A, 1, 32*mib, replicated)[0]
	fillWithNoise(t, v, 16*mib)
	check(t, pair.B.AwaitPoint(ctx, groupName, time.Now()))
	want := readDevice(t, v, 17*mib)
	flips := flipRecords(t, pair.A.Config.Root)
	check(t, harness.Until(ctx, 100*time.Millisecond, func() error {
		got, err := tryReadDevice(v, 17*mib)
		if err == nil && !bytes.Equal(got, want) {
			t.Error("the device reads as something else than was written")
		}
		return err
	}))
	check(t, harness.Until(ctx, 100*time.Millisecond, func() error {
		for _, f := range flips {
			if b := must(f.read())(t); b != f.was {
				return fmt.Errorf("byte %d of %s is still %02x, and was %02x", f.off, f.name, b, f.was)
			}
		}
		return nil
	}))
}

// flipped is a byte of a file that was changed.
type flipped struct {
	name string
	off  int64
	was  byte
}

func (f *flipped) read() (byte, error) {
	file, err := os.Open(f.name)
	if err != nil {
		return 0, err
	}
	var b [1]byte
	_, err = file.ReadAt(b[:], f.off)
	return b[0], errors.Join(err, file.Close())
}

// flipRecords changes a byte of the payload of each fifth write in the segments below
// a directory. docs/format.md says how a frame looks.
func flipRecords(t *testing.T, root string) (flips []flipped) {
	t.Helper()
	check(t, filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(name) != ".seg" {
			return err
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		file, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		for off := 4096; off+64 < len(content); off += 8 {
			head := content[off:]
			if string(head[:4]) != "LSR1" || head[24] != 1 || binary.LittleEndian.Uint64(head[40:])%5 != 0 {
				continue
			}
			at := int64(off) + 64 + int64(binary.LittleEndian.Uint32(head[28:]))/2
			flips = append(flips, flipped{name, at, content[at]})
			if _, err := file.WriteAt([]byte{content[at] ^ 0x40}, at); err != nil {
				return errors.Join(err, file.Close())
			}
		}
		return file.Close()
	}))
	if len(flips) == 0 {
		t.Fatal("no record was found")
	}
	t.Logf("%d records are damaged", len(flips))
	return flips
}

func readDevice(t *testing.T, v *harness.Volume, n int64) []byte {
	t.Helper()
	return must(tryReadDevice(v, n))(t)
}

// tryReadDevice reads the first bytes of a device, past the page cache.
func tryReadDevice(v *harness.Volume, n int64) ([]byte, error) {
	f, err := os.OpenFile(v.Target, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	buffer, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	_, err = f.ReadAt(buffer, 0)
	out := bytes.Clone(buffer)
	return out, errors.Join(err, f.Close(), unix.Munmap(buffer))
}
