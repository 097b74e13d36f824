package fleet

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

const (
	// keepPointFor is how long an engine keeps a replica's point that nobody tells it
	// of any more. A controller that is away for longer costs the point, and no member
	// its disk.
	keepPointFor = time.Hour
	// keepPointWithin bounds asking and telling the members of one group.
	keepPointWithin = 10 * time.Second
	// keepingPoints is how many groups are looked at at once.
	keepingPoints = 8
)

// keepPoints tells the members of each replica which recovery point is the newest that
// all of them have, so that none gives it up for what is newer (see driver/enginepod). It
// ends with the fleet.
func (f *Fleet) keepPoints() {
	for {
		var keeping errgroup.Group
		keeping.SetLimit(keepingPoints)
		for _, st := range f.groups.States() {
			// While an operation is not finished they keep what they keep: it may be about to
			// return to what is older than the newest point.
			if st.Role == group.RoleReplica && st.Pending == nil {
				keeping.Go(func() error { f.keepPoint(st); return nil })
			}
		}
		_ = keeping.Wait() // none fails
		timer := f.cfg.Clock.NewTimer(f.cfg.KeepPointEvery)
		select {
		case <-timer.C():
		case <-f.ctx.Done():
			timer.Stop()
			return
		}
	}
}

// keepPoint tells the members of a replica. While the newest point is not known, because
// one of them does not answer for example, they keep what they keep.
func (f *Fleet) keepPoint(st group.State) {
	ctx, cancel := context.WithTimeout(f.ctx, keepPointWithin)
	defer cancel()
	newest, err := f.newestOfAll(ctx, st)
	if err != nil {
		f.cfg.Log.Debug("the newest recovery point of a replica is not known", "group", st.Name, "error", err)
	}
	var telling errgroup.Group
	for _, v := range f.inGroup(st.Name, false) {
		f.mu.Lock()
		client := v.client
		f.mu.Unlock()
		if client == nil {
			continue
		}
		var at journal.Position
		if newest != nil {
			at = newest.Members[client.Volume()]
		}
		telling.Go(func() error {
			if err := client.KeepPoint(ctx, at, keepPointFor); err != nil {
				f.cfg.Log.Debug("a member of a replica is not told what to keep", "volume", client.Volume(), "group", st.Name, "error", err)
			}
			return nil
		})
	}
	_ = telling.Wait() // none fails
}

// newestOfAll is the newest point of a replica; nil while that is not known. Without a
// member that has newer ones it would be one of before that has joined, and the others
// would let go of what it is to be failed over to when it is back.
func (f *Fleet) newestOfAll(ctx context.Context, st group.State) (*group.Point, error) {
	if !f.allTell(st) {
		return nil, nil
	}
	newest, err := f.groups.NewestPoint(ctx, st.Name)
	if err != nil || !f.allTell(st) {
		return nil, err
	}
	return newest, nil
}

// allTell reports whether all members of a group tell what they hold.
func (f *Fleet) allTell(st group.State) bool {
	for _, v := range f.inGroup(st.Name, false) {
		f.mu.Lock()
		tells := v.tellsLocked()
		f.mu.Unlock()
		if !tells {
			return false
		}
	}
	return true
}
