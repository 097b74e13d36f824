package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lockstep-csi/lockstep/journal"
)

// sparse is a source of runs of bytes; the rest is zeroes.
type sparse struct {
	size int64
	runs []run // ascending, disjoint, whole sectors
	// damaged bytes cannot be read.
	damaged map[int64]bool // by sector
}

type run struct {
	off  int64
	data []byte
}

func (s *sparse) SizeBytes() int64 { return s.size }

func (s *sparse) NextData(off int64) (int64, int64, error) {
	for _, r := range s.runs {
		if end := r.off + int64(len(r.data)); end > off {
			start := max(off, r.off)
			return start, end - start, nil
		}
	}
	return 0, 0, nil
}

var errDamaged = &journal.CorruptError{File: "journal/1.seg", What: "payload", Wanted: "crc 1", Found: "crc 2"}

func (s *sparse) ReadAt(p []byte, off int64) error {
	clear(p)
	for at := off; at < off+int64(len(p)); at += journal.SectorBytes {
		if s.damaged[at/journal.SectorBytes] {
			return errDamaged
		}
	}
	for _, r := range s.runs {
		if r.off < off+int64(len(p)) && r.off+int64(len(r.data)) > off {
			if r.off >= off {
				copy(p[r.off-off:], r.data)
			} else {
				copy(p, r.data[off-r.off:])
			}
		}
	}
	return nil
}

// sum is the checksum of all that the source holds.
func (s *sparse) sum(t *testing.T) [sha256.Size]byte {
	t.Helper()
	h := sha256.New()
	buf := make([]byte, chunkBytes)
	for off := int64(0); off < s.size; off += chunkBytes {
		p := buf[:min(chunkBytes, s.size-off)]
		if err := s.ReadAt(p, off); err != nil {
			t.Fatal(err)
		}
		h.Write(p)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func fileSum(t *testing.T, name string) [sha256.Size]byte {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(content)
}

// sources are images of many shapes.
func sources() map[string]*sparse {
	rng := rand.New(rand.NewPCG(1, 1))
	noise := func(off, n int64) run {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(rng.Uint32()) | 1
		}
		return run{off, p}
	}
	many := &sparse{size: tableSpanBytes + 48<<20 + 512}
	for off := int64(0); off < many.size-1<<20; off += 7<<20 + 512 {
		many.runs = append(many.runs, noise(off, 512*(1+rng.Int64N(300))))
	}
	many.runs = append(many.runs, noise(many.size-512, 512))
	return map[string]*sparse{
		"one sector":        {size: 512, runs: []run{noise(0, 512)}},
		"empty":             {size: 1 << 20},
		"full":              {size: 5 << 20, runs: []run{noise(0, 5<<20)}},
		"odd size":          {size: 3<<20 + 1536, runs: []run{noise(512, 1024), noise(2<<20, 1<<20+1536)}},
		"a cluster in two":  {size: 1 << 20, runs: []run{noise(clusterBytes-512, 1024), noise(clusterBytes+4096, 512)}},
		"zeroes among data": {size: 1 << 20, runs: []run{{0, make([]byte, 1<<19)}, noise(1<<19, 4096), {1<<19 + 4096, make([]byte, 8192)}}},
		"several tables":    many,
	}
}

func copyTo(t *testing.T, from Source, name string, qcow2 bool) Copied {
	t.Helper()
	file, err := CreateFile(name, false)
	if err != nil {
		t.Fatal(err)
	}
	var to interface {
		Sink
		Commit() error
	}
	if qcow2 {
		to = NewQcow2(file, from.SizeBytes())
	} else if to, err = NewRaw(file, from.SizeBytes()); err != nil {
		t.Fatal(err)
	}
	copied, err := Copy(context.Background(), from, to, false, &Progress{})
	if err = errors.Join(err, to.Commit()); err != nil {
		t.Fatal(err)
	}
	return copied
}

// qemuImg runs Debian's qemu-img, which knows the format better than we do.
func qemuImg(t *testing.T, args ...string) []byte {
	t.Helper()
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("no qemu-img (package qemu-utils): qcow2 images were not checked by it")
	}
	out, err := exec.Command(tool, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %q: %v\n%s", args, err, out)
	}
	return out
}

func TestQcow2(t *testing.T) {
	for name, from := range sources() {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			image, back := filepath.Join(dir, "image.qcow2"), filepath.Join(dir, "back.raw")
			copied := copyTo(t, from, image, true)
			var check struct {
				Corruptions int   `json:"corruptions"`
				Leaks       int   `json:"leaks"`
				Errors      int   `json:"check-errors"`
				Allocated   int64 `json:"allocated-clusters"`
				End         int64 `json:"image-end-offset"`
			}
			if err := json.Unmarshal(qemuImg(t, "check", "--output=json", image), &check); err != nil {
				t.Fatal(err)
			}
			if check.Corruptions+check.Leaks+check.Errors != 0 {
				t.Errorf("qemu-img check: %+v", check)
			}
			if info, err := os.Stat(image); err != nil || info.Size() != check.End {
				t.Errorf("file of %d bytes, image ends at %d", info.Size(), check.End)
			}
			// Data at every cluster's edge is the worst case.
			if limit := 2 + 2*copied.DataBytes/clusterBytes + int64(len(from.runs)); check.Allocated > limit {
				t.Errorf("%d clusters for %d bytes of data in %d runs", check.Allocated, copied.DataBytes, len(from.runs))
			}
			qemuImg(t, "convert", "-O", "raw", image, back)
			if info, err := os.Stat(back); err != nil || info.Size() != from.size {
				t.Fatalf("qemu-img reads %d bytes, want %d", info.Size(), from.size)
			}
			if fileSum(t, back) != from.sum(t) {
				t.Error("qemu-img reads something else than was written")
			}
		})
	}
}

// TestRefcountClusters counts the clusters of counts as the format demands: they
// have counts themselves.
func TestRefcountClusters(t *testing.T) {
	for _, n := range []int64{1, 2, countsPerBlock - 2, countsPerBlock - 1, countsPerBlock, countsPerBlock + 1, 10 * countsPerBlock, entriesPerTable * countsPerBlock, 1 << 33} {
		blocks, table := refcountClusters(n)
		if total := n + blocks + table; blocks*countsPerBlock < total || (blocks-1)*countsPerBlock >= total {
			t.Errorf("%d clusters and %d of the table: %d blocks of counts", n, table, blocks)
		}
		if table*entriesPerTable < blocks || (table-1)*entriesPerTable >= blocks {
			t.Errorf("%d blocks: %d clusters of the table", blocks, table)
		}
	}
}

func TestRaw(t *testing.T) {
	for name, from := range sources() {
		t.Run(name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image.raw")
			copied := copyTo(t, from, image, false)
			if fileSum(t, image) != from.sum(t) {
				t.Error("the image differs")
			}
			if used := usedBytes(t, image); used > copied.DataBytes+int64(len(from.runs)+1)*2*holeBytes {
				t.Errorf("%d bytes of data take %d", copied.DataBytes, used)
			}
		})
	}
}

func TestCopyKeepsGoing(t *testing.T) {
	data := bytes.Repeat([]byte{7}, 1<<20)
	from := &sparse{size: 2 << 20, runs: []run{{4096, data}}, damaged: map[int64]bool{100: true, 101: true, 102: true, 1000: true}}
	file, err := CreateFile(filepath.Join(t.TempDir(), "image"), false)
	if err != nil {
		t.Fatal(err)
	}
	to, err := NewRaw(file, from.size)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(context.Background(), from, to, false, &Progress{}); !errors.Is(err, journal.ErrCorrupt) {
		t.Errorf("damage is copied: %v", err)
	}
	copied, err := Copy(context.Background(), from, to, true, &Progress{})
	if err != nil {
		t.Fatal(err)
	}
	want := []Missing{{100 * 512, 3 * 512, errDamaged}, {1000 * 512, 512, errDamaged}}
	if len(copied.Missing) != 2 || copied.Missing[0] != want[0] || copied.Missing[1] != want[1] {
		t.Errorf("missing %v, want %v", copied.Missing, want)
	}
	if err := to.Commit(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file.name)
	if err != nil {
		t.Fatal(err)
	}
	expected := make([]byte, from.size)
	copy(expected[4096:], data)
	clear(expected[100*512 : 103*512])
	clear(expected[1000*512 : 1001*512])
	if !bytes.Equal(got, expected) {
		t.Error("the rest of the image differs")
	}
}
