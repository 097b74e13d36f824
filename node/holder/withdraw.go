package holder

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/node/loop"
)

// withdraw takes a volume down that nothing on this node uses, with the help of
// its engine, which c is; with look it only finds out whether that could be done.
// ErrBusy changes nothing.
func (h *Holder) withdraw(ctx context.Context, c *connection, id string, look bool) error {
	v, err := h.served(c, id)
	if err != nil {
		return err
	}
	if err := v.acquire(ctx); err != nil {
		return err
	}
	return v.leaveBehind(ctx, func() error {
		if v.removed {
			return nil
		}
		d, err := v.find()
		if err != nil {
			return err
		}
		if d != nil {
			err = h.config.Unused(ctx, id, d.Path(), func() error { return withdrawLoop(ctx, *d, look) })
		}
		if err != nil || look {
			return err
		}
		return h.drop(v)
	})
}

// withdrawLoop takes a device away that nobody has mounted, claimed or open.
func withdrawLoop(ctx context.Context, d loop.Device, look bool) error {
	if !look {
		err := d.Withdraw(ctx)
		if errors.Is(err, loop.ErrBusy) {
			return fmt.Errorf("%w: %w", ErrBusy, err)
		}
		return err
	}
	used, err := d.InUse()
	if err == nil && used {
		err = fmt.Errorf("%w: %s", ErrBusy, d.Path())
	}
	return err
}
