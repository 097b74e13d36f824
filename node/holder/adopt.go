package holder

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/lockstep-csi/lockstep/node/loop"
)

// adopt takes stock of what earlier holders of the directory left, before anyone
// can connect. A volume that was recorded and whose connection is alive is kept
// without a descriptor until its engine brings one. The rest, and loop devices
// that lost their mount (as when a node lost power and the machine did not, or
// the mount namespace of a container ended), is cleared away. Nothing of another
// directory is touched, and nothing here waits for an engine for longer than
// aliveWait, or abortGrace for a device without a mount.
func (h *Holder) adopt(ctx context.Context) error {
	var err error
	if h.id, err = loadDirectoryID(h.config.Dir); err != nil {
		return err
	}
	records, damaged := loadRecords(h.config.Dir)
	if damaged != nil {
		if records == nil {
			return damaged
		}
		h.config.Log.Error("records of earlier volumes are damaged, their engines cannot give them back", "error", damaged)
	}
	left, err := volumesMounted(h.config.Dir)
	if err != nil {
		return err
	}
	for id := range records {
		left = append(left, id)
	}
	h.warnIfPrivate()
	var adopting sync.WaitGroup
	seen := make(map[string]bool)
	for _, id := range left {
		if seen[id] {
			continue
		}
		seen[id] = true
		adopting.Go(func() {
			if err := h.adoptVolume(ctx, id, records[id]); err != nil {
				h.config.Log.Error("cannot clear away what is left of a volume", "volume", id, "error", err)
			}
		})
	}
	adopting.Wait()
	return h.clearStale(ctx)
}

// warnIfPrivate says what a missing mount propagation will cost.
func (h *Holder) warnIfPrivate() {
	if public, err := shared(h.config.Dir); err == nil && !public {
		h.config.Log.Warn("mounts in the holder's directory are private to this process's mount namespace: "+
			"in a container, set mountPropagation: Bidirectional, or volumes fail when the container is replaced", "dir", h.config.Dir)
	}
}

// adoptVolume keeps the volume of a record if it is alive, and else clears away
// what is left of it. The record may be missing.
func (h *Holder) adoptVolume(ctx context.Context, id string, rec record) error {
	v := h.newVolume(id, rec.BlockBytes, rec.ReadOnly)
	number, mounted, err := connectionAt(v.dir)
	if err != nil {
		return err
	}
	if mounted && v.alive(ctx) {
		if rec.Volume == "" || rec.Connection != number {
			return fmt.Errorf("%w: %s is mounted, and no record tells what it is", ErrLeased, v.dir)
		}
		v.rec = rec
		h.mu.Lock()
		h.volumes[id] = v
		h.mu.Unlock()
		h.config.Log.Info("volume of an earlier holder waits for its engine to come back", "volume", id)
		return nil
	}
	h.config.Log.Info("clear away what is left of a volume", "volume", id, "mounted", mounted)
	if mounted {
		return v.forceClear(ctx, number)
	}
	if err := os.Remove(filepath.Join(h.config.Dir, id)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove mount point: %w", err)
	}
	return removeRecord(h.config.Dir, id)
}

// clearStale detaches loop devices over files of this directory that are in no
// mount any more. One that is in use goes when its last user does.
func (h *Holder) clearStale(ctx context.Context) error {
	devices, err := h.stale()
	if err != nil {
		return err
	}
	for _, d := range devices {
		h.config.Log.Warn("detach loop device of an earlier life of this node", "device", d.Path(), "file", d.Name())
		if err := giveUpBriefly(ctx, d); err != nil {
			h.config.Log.Error("cannot detach stale loop device", "device", d.Path(), "error", err)
		}
	}
	return nil
}

// giveUpBriefly is giveUpLoop for a device that somebody may serve unknown to
// this holder: its last close may wait for them.
func giveUpBriefly(ctx context.Context, d loop.Device) error {
	ctx, cancel := context.WithTimeout(ctx, abortGrace)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- giveUpLoop(ctx, d) }()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("detach %s: %w", d.Path(), ctx.Err())
	}
}
