package groups

import (
	"context"
	"time"

	"github.com/lockstep-csi/lockstep/group"
)

// AchievedWindow is how far back the group can be opened at a moment; 0: there is no
// point, no member that can tell of one, or none that is not in the future (PointsAhead).
func (s *Summary) AchievedWindow(now time.Time) time.Duration {
	if s.Oldest == nil {
		return 0
	}
	return max(0, now.Sub(s.Oldest.Time))
}

// IsWindowShort reports whether history reaches back less far than is wanted because
// some was given up. A group that is younger than its window holds all that it can,
// and one without a point says nothing of its window.
func (s *Summary) IsWindowShort(now time.Time) bool {
	if s.Oldest == nil || s.Whole {
		return false
	}
	wanted := s.State.Settings.Window
	// Segments leave the journal whole, and points come at intervals.
	slack := max(wanted/20, 2*s.State.Settings.CheckpointInterval)
	return s.AchievedWindow(now)+slack < wanted
}

// WindowAdvice is what to do about a window that is short.
func (s *Summary) WindowAdvice() string {
	advice := "give the group more journalSize, or the backing volumes more room"
	if s.State.Role == group.RoleReplica {
		advice += "; where a whole image was taken lately, history has begun with it and grows by itself"
	}
	return advice
}

// windowPause is between two looks at how far back the groups reach.
const windowPause = time.Minute

// TellWindows looks at the windows each minute, until ctx ends. Call it once, where
// nothing else tells people of them.
func (g *Groups) TellWindows(ctx context.Context) {
	for {
		g.LookAtWindows(ctx)
		timer := g.cfg.Clock.NewTimer(windowPause)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// LookAtWindows logs which groups' history has become shorter than wanted, and which
// is as long as wanted again, since it looked last. It must not be called
// concurrently.
func (g *Groups) LookAtWindows(ctx context.Context) {
	short := map[string]bool{}
	for _, st := range g.States() {
		before := g.short[st.Name]
		s, err := g.Summary(ctx, st.Name)
		if err != nil || s.Oldest == nil { // known again when members can tell
			short[st.Name] = before
			continue
		}
		now := g.cfg.Clock.Now()
		short[st.Name] = s.IsWindowShort(now)
		g.tellWindow(&s, s.AchievedWindow(now), before, short[st.Name])
	}
	g.short = short
}

func (g *Groups) tellWindow(s *Summary, achieved time.Duration, before, short bool) {
	log := g.cfg.Log.With("group", s.State.Name, "achieved", achieved.Truncate(time.Second), "wanted", s.State.Settings.Window)
	switch {
	case short && !before:
		log.Warn("history is shorter than wanted: " + s.WindowAdvice())
	case before && !short:
		log.Info("history is as long as wanted again")
	}
}
