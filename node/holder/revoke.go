package holder

import (
	"context"
	"fmt"
	"time"
)

// Unserved is a volume that no engine serves, as it was when somebody looked.
type Unserved struct {
	ID string
	// Spell is the same for as long as no engine has leased the volume.
	Spell uint64
	// For is how long this holder has known of no engine.
	For time.Duration
	// Attachment is what Attest was told; empty: nothing.
	Attachment string
}

// Unserved are the volumes that this holder has the descriptor of, and no engine a
// lease. One that an engine may have kept from an earlier holder (Volume.Away) is
// none of them.
func (h *Holder) Unserved() []Unserved {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []Unserved
	for id, v := range h.volumes {
		if v.lessee != nil || !v.mounted() {
			continue
		}
		v.mu.Lock()
		attachment := v.rec.Attachment
		v.mu.Unlock()
		found = append(found, Unserved{ID: id, Spell: v.spell, For: time.Since(v.unserved), Attachment: attachment})
	}
	return found
}

// Attest notes what attaches a volume to this node, by a name of the caller's, and
// keeps it for as long as the present mount exists, over the holders that have it.
// ErrNotAttached if there is no mount.
func (h *Holder) Attest(id, attachment string) error {
	h.mu.Lock()
	v := h.volumes[id]
	h.mu.Unlock()
	if v == nil {
		return fmt.Errorf("%w: %s", ErrNotAttached, id)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.rec.Volume == "" {
		return fmt.Errorf("%w: %s", ErrNotAttached, id)
	}
	next := v.rec
	next.Attachment = attachment
	if err := next.save(h.config.Dir); err != nil {
		return err
	}
	v.rec = next
	return nil
}

// Revoke takes the device of a volume away that is not this node's any more, from
// whoever uses it: I/O that waits for an engine, and all that comes, fails, and the
// device goes with its last user. ErrLeased, and nothing has happened, if an engine
// has leased the volume since u was seen; until Revoke has done its work none can any more. An error that comes later leaves a device that fails every request; the
// next attach makes another one, and a further Revoke takes it away.
func (h *Holder) Revoke(ctx context.Context, u Unserved) error {
	v, err := h.beginRevoke(u)
	if err != nil {
		return err
	}
	// Who holds the volume's token, or its turn in Config.Turn, may wait in the
	// kernel for an engine: this ends the wait.
	err = abort(v.dir)
	if err == nil {
		err = v.acquire(ctx)
	}
	if err != nil {
		h.endRevoke(v)
		return err
	}
	return v.leaveBehind(ctx, func() error {
		defer h.endRevoke(v)
		if v.removed {
			return nil
		}
		return v.inTurn(ctx, func() error { return h.forsake(v) })
	})
}

// forsake leaves the device of an aborted volume to its last user, and drops the
// volume. The caller has its token.
func (h *Holder) forsake(v *volume) error {
	d, err := v.find()
	if err != nil {
		return err
	}
	if d != nil {
		if err := d.Abandon(); err != nil {
			return err
		}
	}
	if err := h.drop(v); err != nil {
		return err
	}
	h.counters.revoked.Add(1)
	return nil
}

// beginRevoke finds the volume as u tells of it, and keeps leases from beginning. It
// is by the volume's id, for a volume that is detached meanwhile and attached anew
// has the same mount point.
func (h *Holder) beginRevoke(u Unserved) (*volume, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.volumes[u.ID]
	switch {
	case h.ending:
		return nil, errEnding
	case h.isRevoking(u.ID):
		return nil, errRevoking(u.ID)
	case v == nil:
		return nil, fmt.Errorf("%w: %s", ErrNotAttached, u.ID)
	case v.lessee != nil || v.spell != u.Spell || !v.mounted():
		return nil, fmt.Errorf("%w: volume %s", ErrLeased, u.ID)
	}
	h.revoking[u.ID] = struct{}{}
	return v, nil
}

func (h *Holder) endRevoke(v *volume) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.revoking, v.id)
	h.announce()
}

// isRevoking reports whether the volume's device is being taken away. h.mu is held.
func (h *Holder) isRevoking(id string) bool {
	_, revoking := h.revoking[id]
	return revoking
}

// errRevoking passes: the next attach gets a new device.
func errRevoking(id string) error {
	return fmt.Errorf("%w: the device of volume %s is being taken away", ErrLeased, id)
}
