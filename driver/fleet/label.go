package fleet

import (
	"context"
	"time"
)

// labelTimeout bounds telling a backing volume its volume's group.
const labelTimeout = 10 * time.Second

// label has the backing volume say which group its volume is in. It is for
// people, and what fails is tried when the volume is next looked at. Only the
// goroutine that tends the volume calls it.
func (f *Fleet) label(v *volume) {
	r := f.recordOf(v)
	if r.Placement == nil || v.labelled == r.Group {
		return
	}
	spec := r.Backing
	spec.Group = r.Group
	ctx, cancel := context.WithTimeout(f.ctx, labelTimeout)
	defer cancel()
	if err := f.cfg.Backing.Label(ctx, spec); err != nil {
		if f.ctx.Err() == nil {
			f.cfg.Log.Warn("backing volume is not labelled with its group", "volume", r.ID, "group", r.Group, "error", err)
		}
		return
	}
	v.labelled = r.Group
}
