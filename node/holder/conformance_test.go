package holder_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/frontend/conformance"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

// TestConformance runs the suite of all frontends, with the real kernel as the
// client: over the block device, as volumes are used, and over the file below
// it, where the loop driver's own limits do not apply.
func TestConformance(t *testing.T) {
	runConformance(t, startNode)
}

// TestConformanceOverRing is TestConformance with requests that come over io_uring.
func TestConformanceOverRing(t *testing.T) {
	runConformance(t, startRingNode)
}

func runConformance(t *testing.T, startNode func(testing.TB) *node) {
	requireKernel(t)
	t.Run("loop", func(t *testing.T) {
		conformance.Run(t, func(t *testing.T, dev engine.Device) conformance.Target {
			if strings.HasSuffix(t.Name(), "/FlushDelaysNoRead") {
				t.Skip("not tested over loop: the driver serves flushes and reads of one cgroup in turn, " +
					"on one worker; the case runs over the file")
			}
			n := startNode(t)
			path := n.serve("vol", dev, 512).device
			return &loopTarget{directTarget{node: n, path: path, file: openDirect(t, path)}}
		})
	})
	t.Run("file", func(t *testing.T) {
		conformance.Run(t, func(t *testing.T, dev engine.Device) conformance.Target {
			n := startNode(t)
			n.serve("vol", dev, 512)
			path := filepath.Join(n.mounts(), "vol", fuse.FileName)
			return &fileTarget{directTarget{node: n, path: path, file: openDirect(t, path)}}
		})
	})
}

// directTarget is what a block device and a file have in common: I/O past the
// page cache.
type directTarget struct {
	node *node
	path string
	file *os.File
}

// Capabilities: the kernel holds the lock of a FUSE file over its fsync and
// over a discard, so writes wait for a flush; a loop device has no FUA, and
// makes a write and a flush of it.
func (d *directTarget) Capabilities() conformance.Capabilities {
	return conformance.Capabilities{
		ExactErrors:  true,
		AtomicBytes:  64 << 10,
		DiscardBytes: 4096,
		Parallel:     8,
	}
}

func (d *directTarget) ReadAt(p []byte, off int64) error {
	q := alignedCopy(p)
	n, err := d.file.ReadAt(q, off)
	copy(p, q[:n])
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("read to %d of %d bytes: %w", n, len(p), unix.EIO)
	}
	return err
}

func (d *directTarget) WriteAt(p []byte, off int64, _ bool) error {
	_, err := d.file.WriteAt(alignedCopy(p), off)
	return err
}

func (d *directTarget) Flush() error { return d.file.Sync() }

func (d *directTarget) Close() error {
	if err := d.file.Close(); err != nil {
		return err
	}
	return d.node.client.Detach(testContext(d.node), "vol", false)
}

// fileTarget is the user of the one file in the FUSE file system.
type fileTarget struct{ directTarget }

var _ conformance.Grower = (*fileTarget)(nil)

func (f *fileTarget) Discard(off, length int64) error {
	return unix.Fallocate(int(f.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

func (f *fileTarget) WriteZeroes(off, length int64) error {
	return unix.Fallocate(int(f.file.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

func (f *fileTarget) Size() (int64, error) {
	info, err := f.file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Grow does nothing: attributes are never cached.
func (f *fileTarget) Grow() error { return nil }

// loopTarget is the user of the block device.
type loopTarget struct{ directTarget }

var _ conformance.Grower = (*loopTarget)(nil)

func (l *loopTarget) Discard(off, length int64) error {
	return l.rangeIoctl(unix.BLKDISCARD, off, length)
}

func (l *loopTarget) WriteZeroes(off, length int64) error {
	return l.rangeIoctl(unix.BLKZEROOUT, off, length)
}

func (l *loopTarget) Size() (int64, error) { return deviceBytes(l.node, l.path), nil }

func (l *loopTarget) Grow() error {
	_, err := l.node.client.Resize(testContext(l.node), "vol")
	return err
}

// rangeIoctl makes a request that takes two 64-bit numbers.
func (l *loopTarget) rangeIoctl(request uintptr, off, length int64) error {
	args := [2]int64{off, length}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, l.file.Fd(), request, uintptr(unsafe.Pointer(&args)))
	if errno != 0 {
		return errno
	}
	return nil
}

// alignedCopy copies p to where direct I/O accepts it.
func alignedCopy(p []byte) []byte {
	const page = 4096
	q := make([]byte, len(p)+page)
	shift := int(-uintptr(unsafe.Pointer(&q[0])) & (page - 1))
	q = q[shift : shift+len(p)]
	copy(q, p)
	return q
}

// slowReads is how a TryReader that never has anything in memory behaves.
type slowReads struct {
	*conformance.Memory
	tried atomic.Int64
}

func (s *slowReads) TryReadAt([]byte, int64) (bool, error) {
	s.tried.Add(1)
	return false, nil
}

// TestTryReadAtFallsBack checks that a read that cannot be served from memory
// is served all the same.
func TestTryReadAtFallsBack(t *testing.T) {
	n := startNode(t)
	dev := &slowReads{Memory: conformance.NewMemory(1 << 20)}
	result := readSector(t, n.serve("vol", dev, 512).device)
	if err := awaitResult(t, result); err != nil {
		t.Error(err)
	}
	if dev.tried.Load() == 0 || dev.Counts().Reads == 0 {
		t.Errorf("%d tries, %d reads", dev.tried.Load(), dev.Counts().Reads)
	}
}
