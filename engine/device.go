package engine

import "context"

// SectorBytes is the granularity of every offset and length that a frontend
// hands to a Device: requests must be multiples of it. It is the smallest
// logical block that Linux block devices have.
const SectorBytes = 512

// Device is one random-access block device as a frontend sees it. An Engine
// implements it for a live volume, a View for a read-only past one.
//
// All methods may be called concurrently. Offsets and lengths are bytes,
// multiples of SectorBytes, inside [0, SizeBytes()); anything else is
// ErrOutOfRange or ErrUnaligned and changes nothing. Buffers belong to the
// caller: the device neither keeps nor changes them after the call returns.
// Two writes that overlap and are in flight together take effect whole, in
// some one order, and that order is the same for readers and for history.
type Device interface {
	// SizeBytes is the device's present size. It grows when the volume is
	// expanded and never shrinks.
	SizeBytes() int64

	// ReadOnly reports whether every changing call fails with ErrReadOnly.
	ReadOnly() bool

	// ReadAt fills p with the bytes at off. Ranges never written, discarded
	// or zeroed read as zeroes.
	ReadAt(ctx context.Context, p []byte, off int64) error

	// WriteAt stores p at off. On return the write is ordered and visible to
	// reads, and survives a kill of this process; it survives a power loss
	// only after a later Flush returned, or on return where fua is set.
	WriteAt(ctx context.Context, p []byte, off int64, fua bool) error

	// Discard drops the content of a range, which then reads as zeroes.
	// Durability is that of WriteAt without fua.
	Discard(ctx context.Context, off, length int64) error

	// WriteZeroes makes a range read as zeroes. Durability as WriteAt.
	WriteZeroes(ctx context.Context, off, length int64, fua bool) error

	// Flush returns once every change whose call returned before Flush began
	// is durable. After an error the device is poisoned: see ErrPoisoned.
	Flush(ctx context.Context) error

	// BlockStatus describes [off, off+length) as consecutive ranges that
	// cover it without gaps, at most limit of them (the answer may then end
	// before off+length; it always covers at least one range).
	BlockStatus(ctx context.Context, off, length int64, limit int) ([]BlockRange, error)
}

// BlockRange is a run of bytes with one allocation state.
type BlockRange struct {
	Offset int64 // bytes
	Length int64 // bytes, > 0
	Zero   bool  // reads as zeroes and takes no space; otherwise data
}
