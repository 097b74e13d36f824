package site

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// A device outlives the store behind it, with all that its users were told is written. As
// long as the store has that, too, when it is opened again, nobody notices. After a sync
// of the journal that failed it may not (journal.ErrTailLost), and its flushes would
// succeed all the same: what was acknowledged and flushed would be gone, and nobody told.
// So such a device is taken away from its users, who get I/O errors, as of a disk that
// failed, and the volume gets another one when it is served again.

// bucketLostDevices holds, by the id of its volume, each device that was to be taken away
// and for which there is no other one yet.
const bucketLostDevices = "lost-devices"

// forsakeTimeout bounds the wait for the holder to take a device away.
const forsakeTimeout = 10 * time.Second

// lostDevice is a device that must not be served again. The volume is attached all the
// same, for whoever attached it: the next device will be as this one was.
type lostDevice struct {
	BlockBytes int // 0: what the device was like is not known
	ReadOnly   bool
	At         time.Time // when it was noted

	noted bool // it is in the database, or that failed
	gone  bool // the device was taken away
}

func (l *lostDevice) config(id journal.VolumeID) holder.AttachConfig {
	return holder.AttachConfig{Volume: id.String(), BlockBytes: l.BlockBytes, ReadOnly: l.ReadOnly}
}

// err tells of it where the state of the volume is shown.
func (l *lostDevice) err() error {
	what := "its device was taken away"
	if !l.gone {
		what = "its device is to be taken away"
	}
	return fmt.Errorf("%s: a sync of the journal failed at %s, and writes that its users count on may be lost: stop them, reopen the volume, then unmount and stage again: %w",
		what, l.At.UTC().Format(time.RFC3339), journal.ErrTailLost)
}

// loadLostDevices adds to the volumes what was noted of their devices. One of a volume
// that is gone means nothing.
func (s *Site) loadLostDevices() error {
	return s.db.View(func(tx kv.Tx) error {
		var failed error
		tx.Range(bucketLostDevices, nil, func(key, value []byte) bool {
			lost := &lostDevice{noted: true}
			if err := json.Unmarshal(value, lost); err != nil {
				failed = fmt.Errorf("read lost device of volume %x: %w", key, err)
				return false
			}
			if v := s.volumes[journal.VolumeID(key)]; v != nil {
				v.lost = lost
			}
			return true
		})
		return failed
	})
}

// watch has the device of an open store taken away as soon as the journal has lost what
// its users count on, until endWatch: closing the store sees to that, then.
func (s *Site) watch(v *volume, store *journal.Store) {
	ctx, stop := context.WithCancel(context.Background())
	s.mu.Lock()
	v.stopWatch = stop
	s.mu.Unlock()
	v.watching.Go(func() { s.watchTail(ctx, v, store) })
}

// endWatch joins what watch began. The volume's key may be held.
func (s *Site) endWatch(v *volume) {
	s.mu.Lock()
	stop := v.stopWatch
	s.mu.Unlock()
	if stop != nil {
		stop()
	}
	v.watching.Wait()
}

func (s *Site) watchTail(ctx context.Context, v *volume, store *journal.Store) {
	select {
	case <-store.TailLost():
	case <-ctx.Done():
		return
	}
	s.noteLostAttachment(v) // at once: this process may not live until it has the volume's turn
	unlock, err := s.locks.Lock(ctx, volumeKey(s.recordOf(v).ID))
	if err != nil {
		return // endWatch
	}
	defer unlock()
	s.forsakeDevice(v)
}

// forsakeDevice takes the device of a volume whose journal has lost something away from
// its users. Either of the two that it does is enough: that the device is gone, and that
// the next start knows. The volume's key must be held, or nobody else be there.
func (s *Site) forsakeDevice(v *volume) {
	id := s.recordOf(v).ID
	ctx, cancel := context.WithTimeout(context.Background(), forsakeTimeout)
	defer cancel()
	config, attached, err := s.keptDevice(ctx, v)
	switch {
	case err != nil: // as if there were one: it is not to be served, whatever it is like
		s.cfg.Log.Error("it is not known whether the volume has a device, with what its journal has lost", "volume", id, "error", err)
	case !attached:
		return
	}
	s.lostMu.Lock()
	lost := s.noteLost(v, config)
	s.lostMu.Unlock()
	if lost.gone {
		return
	}
	s.cfg.Log.Error("a sync of the journal failed, and writes that were acknowledged may be lost: the device is taken away, who uses it gets I/O errors and has to begin anew", "volume", id)
	if err := s.takeAway(ctx, v); err != nil {
		s.cfg.Log.Error("the device could not be taken away; it is tried again before the volume is served", "volume", id, "error", err)
	}
}

// noteLostAttachment is noteLost for the device that is served now, if one is.
func (s *Site) noteLostAttachment(v *volume) {
	s.lostMu.Lock()
	defer s.lostMu.Unlock()
	s.mu.Lock()
	a := v.attachment
	s.mu.Unlock()
	if a != nil {
		s.noteLost(v, a.config)
	}
}

// noteLost notes that the volume's device must not be served again, durably if that is
// possible, and returns what is noted then. lostMu must be held.
func (s *Site) noteLost(v *volume, config holder.AttachConfig) lostDevice {
	s.mu.Lock()
	if v.lost == nil {
		v.lost = &lostDevice{BlockBytes: config.BlockBytes, ReadOnly: config.ReadOnly, At: s.cfg.Clock.Now()}
	}
	lost, id := *v.lost, v.record.ID
	v.lost.noted = true
	s.mu.Unlock()
	if lost.noted {
		return lost
	}
	value, err := json.Marshal(lost)
	if err == nil {
		err = s.db.Update(func(tx kv.Tx) error { return tx.Put(bucketLostDevices, id[:], value) })
	}
	if err != nil {
		s.cfg.Log.Error("it cannot be noted that the device must not be served again", "volume", id, "error", err)
	}
	return lost
}

// takeAway takes the device of a volume away from its users, if that is to be and has not
// been done. The volume's key must be held, or nobody else be there.
func (s *Site) takeAway(ctx context.Context, v *volume) error {
	s.mu.Lock()
	lost, a, id := v.lost, v.attachment, v.record.ID
	s.mu.Unlock()
	if lost == nil || lost.gone || s.cfg.Holder == nil {
		return nil
	}
	s.letDeviceGo(v)
	if err := s.cfg.Holder.Detach(ctx, id.String(), true); err != nil {
		return fmt.Errorf("take the device of volume %s away: %w", id, err)
	}
	s.mu.Lock()
	lost.gone = true
	s.mu.Unlock()
	if a == nil {
		return nil
	}
	a.stop()
	a.joined.Wait()
	s.setAttachment(v, nil)
	if err := a.session.Conn.Close(); err != nil {
		s.cfg.Log.Warn("closing the connection of a device that was taken away failed", "volume", id, "error", err)
	}
	return nil
}

// forgetLost is for a volume that has a new device, of store, or whose device was
// detached, and store is nil. journal.ErrTailLost if the new one is lost as well. The
// volume's key must be held.
func (s *Site) forgetLost(v *volume, store *journal.Store) error {
	s.lostMu.Lock()
	defer s.lostMu.Unlock()
	s.mu.Lock()
	lost, id := v.lost, v.record.ID
	s.mu.Unlock()
	if lost == nil {
		return nil
	}
	err := error(nil)
	if store != nil && errors.Is(store.Err(), journal.ErrTailLost) {
		err = store.Err()
	}
	if err == nil {
		err = s.db.Update(func(tx kv.Tx) error { return tx.Delete(bucketLostDevices, id[:]) })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		lost.gone = false // what is there now has to go, too
		return fmt.Errorf("forget the lost device of volume %s: %w", id, err)
	}
	v.lost = nil
	return nil
}
