package holder_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/frontend/conformance"
)

const (
	largeBlock = 4096
	// magnified is how many sectors of a large-block device stand for one of
	// the suite's.
	magnified = largeBlock / engine.SectorBytes
)

// TestConformanceOfLargeBlocks is TestConformance over a loop device with blocks
// of 4096 bytes. The suite speaks in sectors of 512, so each of its sectors is a
// block here: it is repeated on the way to the device, and of what comes to the
// engine one of eight, which must all be the same, reaches the suite's own device.
func TestConformanceOfLargeBlocks(t *testing.T) {
	requireKernel(t)
	conformance.Run(t, func(t *testing.T, dev engine.Device) conformance.Target {
		if strings.HasSuffix(t.Name(), "/FlushDelaysNoRead") {
			t.Skip("not tested over loop: the driver serves flushes and reads of one cgroup in turn, " +
				"on one worker; the case runs over the file")
		}
		n := startNode(t)
		path := n.serve("vol", &reduced{Device: dev, TB: t}, largeBlock).device
		if got := atoi(t, run(t, "blockdev", "--getss", path)); got != largeBlock {
			t.Fatalf("the device has blocks of %d bytes, want %d", got, largeBlock)
		}
		return &magnifier{loopTarget{directTarget{node: n, path: path, file: openDirect(t, path)}}}
	})
}

// magnify repeats each sector.
func magnify(p []byte) []byte {
	q := make([]byte, 0, len(p)*magnified)
	for ; len(p) > 0; p = p[engine.SectorBytes:] {
		q = append(q, bytes.Repeat(p[:engine.SectorBytes], magnified)...)
	}
	return q
}

// reduce takes one sector of each block; ok if the others are the same.
func reduce(p, from []byte) (ok bool) {
	ok = true
	for i := 0; i < len(p); i += engine.SectorBytes {
		block := from[i*magnified:][:largeBlock]
		copy(p[i:], block[:engine.SectorBytes])
		ok = ok && bytes.Equal(block[engine.SectorBytes:], block[:largeBlock-engine.SectorBytes])
	}
	return ok
}

// magnifier is the user of a device whose blocks are the suite's sectors.
type magnifier struct{ loopTarget }

func (m *magnifier) Capabilities() conformance.Capabilities {
	c := m.loopTarget.Capabilities()
	c.AtomicBytes /= magnified
	return c
}

func (m *magnifier) ReadAt(p []byte, off int64) error {
	q := make([]byte, len(p)*magnified)
	if err := m.loopTarget.ReadAt(q, off*magnified); err != nil {
		return err
	}
	if !reduce(p, q) {
		m.node.Errorf("read of %d bytes at %d: a block has come in parts", len(p), off)
	}
	return nil
}

func (m *magnifier) WriteAt(p []byte, off int64, fua bool) error {
	return m.loopTarget.WriteAt(magnify(p), off*magnified, fua)
}

func (m *magnifier) Discard(off, length int64) error {
	return m.loopTarget.Discard(off*magnified, length*magnified)
}

func (m *magnifier) WriteZeroes(off, length int64) error {
	return m.loopTarget.WriteZeroes(off*magnified, length*magnified)
}

func (m *magnifier) Size() (int64, error) {
	size, err := m.loopTarget.Size()
	return size / magnified, err
}

// reduced is the engine's side: the suite's device, magnified. Every request must
// be of whole blocks.
type reduced struct {
	engine.Device
	testing.TB
}

func (r *reduced) whole(what string, off, length int64) {
	if off%largeBlock != 0 || length%largeBlock != 0 {
		r.Errorf("%s of %d bytes at %d: not of whole blocks", what, length, off)
	}
}

func (r *reduced) SizeBytes() int64 { return r.Device.SizeBytes() * magnified }

func (r *reduced) ReadAt(ctx context.Context, p []byte, off int64) error {
	r.whole("read", off, int64(len(p)))
	q := make([]byte, len(p)/magnified)
	err := r.Device.ReadAt(ctx, q, off/magnified)
	copy(p, magnify(q))
	return err
}

func (r *reduced) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	r.whole("write", off, int64(len(p)))
	q := make([]byte, len(p)/magnified)
	if !reduce(q, p) {
		r.Errorf("write of %d bytes at %d: a block has come in parts", len(p), off)
	}
	return r.Device.WriteAt(ctx, q, off/magnified, fua)
}

func (r *reduced) Discard(ctx context.Context, off, length int64) error {
	r.whole("discard", off, length)
	return r.Device.Discard(ctx, off/magnified, length/magnified)
}

func (r *reduced) WriteZeroes(ctx context.Context, off, length int64, fua bool) error {
	r.whole("write of zeroes", off, length)
	return r.Device.WriteZeroes(ctx, off/magnified, length/magnified, fua)
}
