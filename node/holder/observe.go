package holder

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/lockstep-csi/lockstep/node/loop"
)

// Counters are how often things have happened since the holder was made.
type Counters struct {
	Attaches  uint64 // file systems mounted
	Takeovers uint64 // descriptors handed to another engine than the first
	Restores  uint64 // descriptors that engines brought back
	Refused   uint64 // and those that were not taken
	Revoked   uint64 // devices taken away from who used them, by Revoke or because the volume has had another one since
}

type counters struct{ attaches, takeovers, restores, refused, revoked atomic.Uint64 }

// Counters returns the present counts.
func (h *Holder) Counters() Counters {
	c := &h.counters
	return Counters{
		Attaches: c.attaches.Load(), Takeovers: c.takeovers.Load(), Restores: c.restores.Load(), Refused: c.refused.Load(),
		Revoked: c.revoked.Load(),
	}
}

// Volumes describes the volumes that the holder keeps, by id.
func (h *Holder) Volumes() []Volume { return h.list() }

// Volume describes one of them; ErrNotAttached if it is not kept.
func (h *Holder) Volume(id string) (Volume, error) {
	h.mu.Lock()
	v := h.volumes[id]
	h.mu.Unlock()
	if v == nil {
		return Volume{}, fmt.Errorf("%w: %s", ErrNotAttached, id)
	}
	return h.describe(v), nil
}

// Await returns the volume once an engine serves it and it has its block device.
// ErrTrouble when its engine says that it cannot; ctx's error.
func (h *Holder) Await(ctx context.Context, id string) (Volume, error) {
	for {
		h.mu.Lock()
		news := h.news
		h.mu.Unlock()
		v, err := h.Volume(id)
		if err == nil && v.Leased && v.Device != "" {
			return v, nil
		}
		text, left := h.troubleOf(id)
		var believed <-chan time.Time
		if text != "" && left <= 0 {
			return v, fmt.Errorf("volume %s: %w: %s", id, ErrTrouble, text)
		} else if text != "" {
			believed = time.After(left)
		}
		select {
		case <-news:
		case <-believed:
		case <-ctx.Done():
			return v, fmt.Errorf("wait for the engine of volume %s: %w", id, ctx.Err())
		}
	}
}

// Ready returns nil while Run answers engines.
func (h *Holder) Ready() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.started {
		return errors.New("the holder of device descriptors has not started")
	}
	return nil
}

// announce wakes those who wait for a change. h.mu is held.
func (h *Holder) announce() {
	close(h.news)
	h.news = make(chan struct{})
}

// stale are the loop devices over files of this directory whose volume is none
// of those kept.
func (h *Holder) stale() ([]loop.Device, error) {
	devices, err := loop.List()
	if err != nil {
		return nil, err
	}
	var found []loop.Device
	for _, d := range devices {
		id, connection, ours := h.id.parseFileName(d.Name())
		if !ours {
			continue
		}
		h.mu.Lock()
		v := h.volumes[id]
		h.mu.Unlock()
		if v == nil || v.fileName() != h.id.fileName(id, connection) {
			found = append(found, d)
		}
	}
	return found, nil
}
