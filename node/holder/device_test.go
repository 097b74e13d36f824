package holder_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// openDirect opens a device, or the file below it, for direct I/O. Go's poller does not
// get to know it: at that the kernel asks the server of a FUSE file, in a call for which
// the runtime gives no processor away. Where this process is the server, and has no
// other processor or the runtime stops the world meanwhile, both wait for ever.
func openDirect(t testing.TB, device string) *os.File {
	t.Helper()
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.Open(device, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), device)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// alignedBuffer is memory that direct I/O accepts.
func alignedBuffer(t testing.TB, sizeBytes int) []byte {
	t.Helper()
	p, err := unix.Mmap(-1, 0, sizeBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(p) })
	return p
}

func TestReadBackWhatWasWritten(t *testing.T) {
	for _, blockBytes := range []int{512, 4096} {
		t.Run(fmt.Sprint(blockBytes), func(t *testing.T) {
			n := startNode(t)
			const size = 8 << 20
			file := n.newFile(size)
			dev, err := openFileDevice(file, false)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = dev.Close() })
			device := openDirect(t, n.serve("vol", dev, blockBytes).device)

			want := make([]byte, size)
			random := rand.New(rand.NewPCG(1, uint64(blockBytes)))
			p := alignedBuffer(t, 256<<10)
			for range 300 {
				blocks := 1 + random.IntN(len(p)/blockBytes)
				q := p[:blocks*blockBytes]
				off := int64(random.IntN((size-len(q))/blockBytes+1)) * int64(blockBytes)
				for i := range q {
					q[i] = byte(random.Uint32())
				}
				if _, err := device.WriteAt(q, off); err != nil {
					t.Fatalf("write %d bytes at %d: %v", len(q), off, err)
				}
				copy(want[off:], q)
			}
			got := alignedBuffer(t, size)
			if _, err := device.ReadAt(got, 0); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Fatal("the device does not hold what was written to it")
			}
			stored, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(stored, want) {
				t.Fatal("what was written has not reached the engine")
			}
		})
	}
}
