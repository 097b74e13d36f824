package engine

import "context"

// Guarded is a device that refuses changes while somebody else may make them:
// the live volume as tools see it, which must not be written to while it is
// attached, because whoever mounted it would not know.
type Guarded struct {
	Device
	// Blocked reports whether changes are refused now. It may be called
	// concurrently.
	Blocked func() bool
}

// ReadOnly implements Device.
func (g Guarded) ReadOnly() bool { return g.Blocked() || g.Device.ReadOnly() }

// WriteAt implements Device.
func (g Guarded) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	if g.ReadOnly() {
		return ErrReadOnly
	}
	return g.Device.WriteAt(ctx, p, off, fua)
}

// Discard implements Device.
func (g Guarded) Discard(ctx context.Context, off, length int64) error {
	if g.ReadOnly() {
		return ErrReadOnly
	}
	return g.Device.Discard(ctx, off, length)
}

// WriteZeroes implements Device.
func (g Guarded) WriteZeroes(ctx context.Context, off, length int64, fua bool) error {
	if g.ReadOnly() {
		return ErrReadOnly
	}
	return g.Device.WriteZeroes(ctx, off, length, fua)
}
