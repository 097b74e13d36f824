package holder

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
)

// identityBytes is the length of a mount's identity.
const identityBytes = 8

// newIdentity draws the identity of a mount. An engine keeps it with the volume's
// store, so that after the volume has been elsewhere a device that waits here is told
// from the one that the volume had last: what its users have written, and the kernel
// keeps, is older than what the volume holds.
func newIdentity() string {
	raw := make([]byte, identityBytes)
	_, _ = rand.Read(raw) // never fails, crypto/rand
	return hex.EncodeToString(raw)
}

// isKnown reports whether a mount may be the one that a volume is known to have had
// last; nil: that is not known. A mount of a holder that drew no identity may be any.
func (r record) isKnown(known *string) bool {
	return known == nil || r.Identity == "" || *known == r.Identity
}

// outdated reports whether the holder has a descriptor of v that is not of the known
// mount. One that it does not have is nobody's to take over.
func (v *volume) outdated(known *string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.conn != noDescriptor && !v.rec.isKnown(known)
}

// outdatedError refuses the lease of a volume whose device here is not its last one.
// It passes as soon as that is taken away.
type outdatedError struct{ seen Unserved }

func (e *outdatedError) Error() string {
	return fmt.Sprintf("%v: the device of volume %s is older than what the volume holds", ErrLeased, e.seen.ID)
}

func (e *outdatedError) Unwrap() error { return ErrLeased }

// leaseNewest leases the volume of an attach to c. A device that is not the one that
// the engine knows is taken away before, from whoever uses it, so that the lease is
// never seen with it: who waits for a served device (Await) waits for the new one.
func (h *Holder) leaseNewest(ctx context.Context, c *connection, req request) (*volume, error) {
	try := func() (*volume, *connection, error) { return h.tryLease(c, req) }
	v, err := h.lease(ctx, c, try)
	var old *outdatedError
	if !errors.As(err, &old) {
		return v, err
	}
	h.config.Log.Warn("the volume has had another device, or has been rewound, since it was served here: its device is taken away, who uses that gets an I/O error",
		"volume", req.Volume)
	if err := h.Revoke(ctx, old.seen); err != nil && !errors.Is(err, ErrNotAttached) {
		return nil, fmt.Errorf("take the outdated device of volume %s away: %w", req.Volume, err)
	}
	return h.lease(ctx, c, try)
}
