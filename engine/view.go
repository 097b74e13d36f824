package engine

import (
	"context"

	"github.com/lockstep-csi/lockstep/journal"
)

// ViewDevice shows a view as a read-only Device.
type ViewDevice struct{ view *journal.View }

var _ Device = ViewDevice{}

// NewViewDevice makes a device of an open view, which stays the caller's to
// close once no request is under way.
func NewViewDevice(view *journal.View) ViewDevice { return ViewDevice{view} }

// SizeBytes implements Device.
func (d ViewDevice) SizeBytes() int64 { return d.view.SizeBytes() }

// ReadOnly implements Device: a view always is.
func (d ViewDevice) ReadOnly() bool { return true }

// ReadAt implements Device.
func (d ViewDevice) ReadAt(_ context.Context, p []byte, off int64) error {
	if err := checkRange(off, int64(len(p)), d.SizeBytes()); err != nil || len(p) == 0 {
		return err
	}
	return mapError(d.view.ReadAt(p, off))
}

// WriteAt implements Device; ErrReadOnly.
func (d ViewDevice) WriteAt(context.Context, []byte, int64, bool) error { return ErrReadOnly }

// Discard implements Device; ErrReadOnly.
func (d ViewDevice) Discard(context.Context, int64, int64) error { return ErrReadOnly }

// WriteZeroes implements Device; ErrReadOnly.
func (d ViewDevice) WriteZeroes(context.Context, int64, int64, bool) error { return ErrReadOnly }

// Flush implements Device; there is nothing to flush.
func (d ViewDevice) Flush(context.Context) error { return nil }

// BlockStatus implements Device.
func (d ViewDevice) BlockStatus(_ context.Context, off, length int64, limit int) ([]BlockRange, error) {
	if err := checkRange(off, length, d.SizeBytes()); err != nil || length == 0 {
		return nil, err
	}
	ranges, err := d.view.Allocation(off, length, limit)
	return blockRanges(ranges), mapError(err)
}
