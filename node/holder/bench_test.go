package holder_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/engine"
)

// memoryDevice is a device that costs next to nothing, to measure what the
// frontend itself costs. Overlapping writes are not ordered: fio has none.
type memoryDevice struct{ data []byte }

// newMemoryDevice touches all of its memory, so that no page fault is measured.
func newMemoryDevice(sizeBytes int) *memoryDevice {
	d := &memoryDevice{data: make([]byte, sizeBytes)}
	for i := 0; i < len(d.data); i += 4096 {
		d.data[i] = 1
	}
	return d
}

func (d *memoryDevice) SizeBytes() int64 { return int64(len(d.data)) }
func (d *memoryDevice) ReadOnly() bool   { return false }

func (d *memoryDevice) ReadAt(_ context.Context, p []byte, off int64) error {
	copy(p, d.data[off:])
	return nil
}

func (d *memoryDevice) TryReadAt(p []byte, off int64) (bool, error) {
	copy(p, d.data[off:])
	return true, nil
}

func (d *memoryDevice) WriteAt(_ context.Context, p []byte, off int64, _ bool) error {
	copy(d.data[off:], p)
	return nil
}

func (d *memoryDevice) Discard(_ context.Context, off, length int64) error {
	clear(d.data[off : off+length])
	return nil
}

func (d *memoryDevice) WriteZeroes(ctx context.Context, off, length int64, _ bool) error {
	return d.Discard(ctx, off, length)
}

func (d *memoryDevice) Flush(context.Context) error { return nil }

func (d *memoryDevice) BlockStatus(_ context.Context, off, length int64, _ int) ([]engine.BlockRange, error) {
	return []engine.BlockRange{{Offset: off, Length: length}}, nil
}

// workload is one fio job of the benchmark.
type workload struct {
	name, rw string
	depth    int
}

var workloads = []workload{
	{"4k write QD1", "randwrite", 1},
	{"4k write QD32", "randwrite", 32},
	{"4k read QD1", "randread", 1},
	{"4k read QD32", "randread", 32},
}

// benchBytes is the size of the measured devices, and benchRounds how often
// each workload runs on each of them.
const (
	benchBytes  = 512 << 20
	benchRounds = 3
)

// BenchmarkAgainstPlainLoop compares devices served over FUSE with a loop device
// over a file on the same disk: in turns, and by medians. The time per
// operation that the testing package prints means nothing here.
func BenchmarkAgainstPlainLoop(b *testing.B) {
	requireTools(b, "fio", "losetup")
	n := startNode(b)
	file, err := openFileDevice(fill(b, n), false)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = file.Close() })
	plain := strings.TrimSpace(run(b, "losetup", "--find", "--show", "--direct-io=on", fill(b, n)))
	b.Cleanup(func() { run(b, "losetup", "--detach", plain) })
	devices := []struct{ name, path string }{
		{"plain loop", plain},
		{"memory", n.serve("memory", newMemoryDevice(benchBytes), 512).device},
		{"file", n.serve("file", file, 512).device},
	}
	for b.Loop() {
		for _, w := range workloads {
			iops := make(map[string][]float64)
			for range benchRounds {
				for _, d := range devices {
					iops[d.name] = append(iops[d.name], measure(b, d.path, w))
				}
			}
			line := w.name
			for _, d := range devices {
				m := median(iops[d.name])
				line += fmt.Sprintf(" | %s %.0f IOPS %.2fx", d.name, m, m/median(iops["plain loop"]))
			}
			b.Log(line)
		}
	}
}

// fill makes a file whose blocks are all written, so that neither side
// allocates while it is measured.
func fill(b *testing.B, n *node) string {
	b.Helper()
	path := n.newFile(benchBytes)
	run(b, "dd", "if=/dev/zero", "of="+path, "bs=1M", fmt.Sprint("count=", benchBytes>>20), "conv=notrunc,fsync", "status=none")
	return path
}

// measure runs one workload for a few seconds and returns its IOPS.
func measure(b *testing.B, device string, w workload) float64 {
	b.Helper()
	out, err := exec.Command("fio", "--name=bench", "--filename="+device, "--rw="+w.rw, "--bs=4k",
		"--ioengine=io_uring", "--direct=1", fmt.Sprint("--iodepth=", w.depth), "--time_based",
		"--runtime=2", "--ramp_time=500ms", "--randrepeat=0", "--norandommap", "--output-format=json").Output()
	if err != nil {
		b.Fatalf("fio: %v", err)
	}
	var report struct {
		Jobs []map[string]json.RawMessage `json:"jobs"`
	}
	if err := json.Unmarshal(out, &report); err != nil || len(report.Jobs) != 1 {
		b.Fatalf("parse report of fio: %v\n%s", err, out)
	}
	var side struct {
		IOPS float64 `json:"iops"`
	}
	if err := json.Unmarshal(report.Jobs[0][strings.TrimPrefix(w.rw, "rand")], &side); err != nil {
		b.Fatal(err)
	}
	return side.IOPS
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
