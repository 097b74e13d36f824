package conformance

import (
	"context"
	"fmt"
	"sync"

	"github.com/lockstep-csi/lockstep/engine"
)

// Memory is a reference engine.Device that holds its content in memory, twice:
// as reads see it and as a power loss would leave it. It counts calls, and can
// be made to fail or to hold up chosen ones (see Fail and Block). It is safe
// for concurrent use; the zero value is not usable.
type Memory struct {
	faults faults

	mu        sync.RWMutex
	sizeBytes int64
	readOnly  bool
	current   *image
	durable   *image
	counts    Counts
}

var _ engine.Device = (*Memory)(nil)

// Counts is how many calls of each kind reached a Memory, failed ones included.
type Counts struct {
	Reads       int
	Writes      int // FUA writes included
	FUAWrites   int
	Discards    int
	WriteZeroes int
	Flushes     int
}

// NewMemory returns a device of sizeBytes zeroes. It panics unless sizeBytes
// is a positive multiple of engine.SectorBytes: that is a fault of the test.
func NewMemory(sizeBytes int64) *Memory {
	m := &Memory{current: newImage(), durable: newImage()}
	m.SetSize(sizeBytes)
	return m
}

// SetSize grows the device; the new part reads as zeroes. It panics when the
// size would shrink or is no multiple of engine.SectorBytes.
func (m *Memory) SetSize(sizeBytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if sizeBytes <= 0 || sizeBytes < m.sizeBytes || sizeBytes%engine.SectorBytes != 0 {
		panic(fmt.Sprintf("memory device cannot go from %d to %d bytes", m.sizeBytes, sizeBytes))
	}
	m.sizeBytes = sizeBytes
}

// SetReadOnly makes every later changing call fail with engine.ErrReadOnly, or
// ends that.
func (m *Memory) SetReadOnly(readOnly bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.readOnly = readOnly
}

// Counts returns how many calls of each kind have arrived so far.
func (m *Memory) Counts() Counts {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.counts
}

// Durable reports whether a power loss now would leave the range as reads see
// it. The range is in bytes, aligned to engine.SectorBytes.
func (m *Memory) Durable(off, length int64) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return !m.current.isDirty(off, length)
}

// DurableAt fills p with the bytes at off that a power loss now would leave.
func (m *Memory) DurableAt(p []byte, off int64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	m.durable.read(p, off)
}

// SizeBytes implements engine.Device.
func (m *Memory) SizeBytes() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.sizeBytes
}

// ReadOnly implements engine.Device.
func (m *Memory) ReadOnly() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.readOnly
}

// ReadAt implements engine.Device.
func (m *Memory) ReadAt(ctx context.Context, p []byte, off int64) error {
	m.count(func(c *Counts) { c.Reads++ })
	if err := m.faults.enter(ctx, OpRead, off, int64(len(p))); err != nil {
		return err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.check(off, int64(len(p))); err != nil {
		return err
	}
	m.current.read(p, off)
	return nil
}

// WriteAt implements engine.Device.
func (m *Memory) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	m.count(func(c *Counts) {
		c.Writes++
		if fua {
			c.FUAWrites++
		}
	})
	return m.change(ctx, OpWrite, off, int64(len(p)), fua, func() { m.current.write(p, off) })
}

// Discard implements engine.Device.
func (m *Memory) Discard(ctx context.Context, off, length int64) error {
	m.count(func(c *Counts) { c.Discards++ })
	return m.change(ctx, OpDiscard, off, length, false, func() { m.current.zero(off, length) })
}

// WriteZeroes implements engine.Device. The zeroed range takes no space.
func (m *Memory) WriteZeroes(ctx context.Context, off, length int64, fua bool) error {
	m.count(func(c *Counts) { c.WriteZeroes++ })
	return m.change(ctx, OpWriteZeroes, off, length, fua, func() { m.current.zero(off, length) })
}

// Flush implements engine.Device.
func (m *Memory) Flush(ctx context.Context) error {
	m.count(func(c *Counts) { c.Flushes++ })
	if err := m.faults.enter(ctx, OpFlush, 0, 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for index := range m.current.chunks {
		m.current.settle(m.durable, index*chunkBytes, chunkBytes)
	}
	return nil
}

// BlockStatus implements engine.Device.
func (m *Memory) BlockStatus(ctx context.Context, off, length int64, limit int) ([]engine.BlockRange, error) {
	if err := m.faults.enter(ctx, OpBlockStatus, off, length); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.check(off, length); err != nil {
		return nil, err
	}
	return m.current.status(off, length, max(limit, 1)), nil
}

// change runs apply, which alters the current image in the range.
func (m *Memory) change(ctx context.Context, op Op, off, length int64, fua bool, apply func()) error {
	if err := m.faults.enter(ctx, op, off, length); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.readOnly {
		return engine.ErrReadOnly
	}
	if err := m.check(off, length); err != nil {
		return err
	}
	apply()
	if fua {
		m.current.settle(m.durable, off, length)
	}
	return nil
}

// check refuses ranges that engine.Device does. The caller holds mu.
func (m *Memory) check(off, length int64) error {
	if off%engine.SectorBytes != 0 || length%engine.SectorBytes != 0 {
		return engine.ErrUnaligned
	}
	if off < 0 || length < 0 || off > m.sizeBytes || length > m.sizeBytes-off {
		return engine.ErrOutOfRange
	}
	return nil
}

func (m *Memory) count(add func(*Counts)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	add(&m.counts)
}

var _ engine.BatchWriter = (*Memory)(nil)

// WriteBatch implements engine.BatchWriter.
func (m *Memory) WriteBatch(ctx context.Context, writes []engine.Write) error {
	for _, w := range writes {
		if err := m.WriteAt(ctx, w.Data, w.Offset, false); err != nil {
			return err
		}
	}
	return nil
}
