package fleet_test

import (
	"context"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// Ensure implements fleet.Backing.
func (c *cluster) Ensure(ctx context.Context, spec fleet.BackingSpec) (fleet.Placement, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unbound {
		c.mu.Unlock()
		<-ctx.Done()
		c.mu.Lock()
		return fleet.Placement{}, ctx.Err()
	}
	if c.full {
		return fleet.Placement{}, fleet.ErrExhausted
	}
	if c.backing[spec.Volume] == nil {
		fs := vfs.NewMem()
		if err := fs.MkdirAll("/backing"); err != nil {
			return fleet.Placement{}, err
		}
		c.backing[spec.Volume], c.classes[spec.Volume] = fs, spec.Class
		if spec.JournalClass != "" {
			if err := fs.MkdirAll("/journal"); err != nil {
				return fleet.Placement{}, err
			}
			c.journals[spec.Volume] = spec.JournalBytes
		}
		if err := fs.SyncDir("/"); err != nil {
			return fleet.Placement{}, err
		}
	}
	return fleet.Placement{Lease: true, Pending: c.scheduled && c.engines[spec.Volume] == nil}, nil
}

// Expand implements fleet.Backing.
func (c *cluster) Expand(_ context.Context, spec fleet.BackingSpec) error {
	c.mu.Lock()
	c.tries++
	meanwhile := c.meanwhile
	c.meanwhile = nil
	c.mu.Unlock()
	if meanwhile != nil {
		meanwhile()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rigid {
		return fleet.ErrNotExpandable
	}
	if c.refusals > 0 {
		c.refusals--
		return fleet.ErrExhausted
	}
	c.expanded[spec.Volume], c.rooms[spec.Volume] = spec.VolumeBytes, spec.JournalBytes
	if spec.JournalClass != "" {
		c.journals[spec.Volume] = spec.JournalBytes
	}
	return nil
}

// journalRoom is the budget that a journal's own backing volume has room for.
func (c *cluster) journalRoom(id journal.VolumeID) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.journals[id]
}

// expandedTo is the size of a volume that its backing volume was last made big
// enough for; 0: it never was.
func (c *cluster) expandedTo(id journal.VolumeID) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.expanded[id]
}

// Label implements fleet.Backing.
func (c *cluster) Label(_ context.Context, spec fleet.BackingSpec) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.groups[spec.Volume] = spec.Group
	return nil
}

// Delete implements fleet.Backing.
func (c *cluster) Delete(_ context.Context, id journal.VolumeID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.engines[id] != nil {
		c.t.Errorf("backing volume of %s deleted under its engine", id)
	}
	delete(c.backing, id)
	return nil
}

// has reports whether a volume has a backing volume.
func (c *cluster) has(id journal.VolumeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.backing[id] != nil
}
