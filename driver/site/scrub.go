package site

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// repairPatience is how long a peer may take to help with all that a scrub has found. A
// replica's questions wait for its primary's next call, up to 30 s.
const repairPatience = time.Minute

// ScrubProgress is how far a scrub is.
type ScrubProgress struct {
	ReadBytes, TotalBytes int64
	Damaged               int
	Repairing             bool // all was read
}

// Scrubbed is what came of a scrub.
type Scrubbed struct {
	ReadBytes int64
	Damaged   []journal.DamagedPlace // that is left
	Repaired  []journal.RepairedPlace
	Peer      string // the site that was asked; empty: none
	PeerErr   error  // why it could not be asked, or was not in time
}

// ScrubVolume reads all that a volume's store has and compares it with its checksums.
// With repair the volume's peer is asked at once for what is damaged, and what the store
// can mend by itself is mended. The volume serves meanwhile; told is called now and then.
// group.ErrBusy while another call scrubs it; the store's error where it is not open.
func (s *Site) ScrubVolume(ctx context.Context, id journal.VolumeID, repair bool, told func(ScrubProgress)) (Scrubbed, error) {
	ctx, eng, done, err := s.beginScrub(ctx, id)
	if err != nil {
		return Scrubbed{}, err
	}
	defer done()
	store, began := eng.Store(), s.cfg.Clock.Now()
	var p ScrubProgress
	err = store.ScrubNow(ctx, func(read, total int64) {
		p.ReadBytes, p.TotalBytes, p.Damaged = read, total, store.Stats().Damaged
		told(p)
	})
	if err != nil {
		return Scrubbed{}, fmt.Errorf("scrub volume %s: %w", id, err)
	}
	out := Scrubbed{ReadBytes: store.ScrubbedBytes()}
	if p.Damaged = store.Stats().Damaged; repair && p.Damaged > 0 {
		p.Repairing = true
		told(p)
		if err := s.repairNow(ctx, id, store, &out); err != nil {
			return Scrubbed{}, fmt.Errorf("repair volume %s: %w", id, err)
		}
	}
	out.Damaged, out.Repaired = store.DamagedPlaces(), store.Repaired(began)
	return out, nil
}

// beginScrub keeps others from scrubbing a volume, and its store open, until done; ctx
// ends when the store is to be closed.
func (s *Site) beginScrub(ctx context.Context, id journal.VolumeID) (_ context.Context, eng *engine.Engine, done func(), err error) {
	if eng, err = s.engineOf(id); err != nil {
		return nil, nil, nil, err
	}
	v, err := s.volumeOf(id)
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.stopScrub != nil || v.eng != eng {
		stop()
		return nil, nil, nil, fmt.Errorf("volume %s is being scrubbed or closed: %w", id, group.ErrBusy)
	}
	v.stopScrub = stop
	v.joined.Add(1)
	return ctx, eng, func() {
		s.mu.Lock()
		v.stopScrub = nil
		s.mu.Unlock()
		stop()
		v.joined.Done()
	}, nil
}

// repairNow has what is damaged repaired, as far as that can be.
func (s *Site) repairNow(ctx context.Context, id journal.VolumeID, store *journal.Store, out *Scrubbed) error {
	out.Peer = s.peerOf(id)
	waiting, cancel := context.WithTimeout(ctx, repairPatience)
	defer cancel()
	err := store.RepairNow(waiting, out.Peer != "")
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		out.PeerErr = fmt.Errorf("site %s was not asked, or did not answer, within %v", out.Peer, repairPatience)
		return nil
	}
	return err
}

// peerOf is the site that has the other copy of a volume; empty: there is none.
func (s *Site) peerOf(id journal.VolumeID) string {
	v, err := s.volumeOf(id)
	if err != nil {
		return ""
	}
	st, err := s.groups.State(s.recordOf(v).Group)
	switch {
	case err != nil:
		return ""
	case st.Role == group.RoleReplica:
		return st.Source
	}
	return st.Settings.ReplicateTo
}
