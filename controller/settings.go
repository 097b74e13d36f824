package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// overlay returns base with what chosen says, where it says something.
func overlay(base, chosen group.Settings) group.Settings {
	before := base
	pick(&base.CheckpointInterval, chosen.CheckpointInterval)
	pick(&base.BarrierTimeout, chosen.BarrierTimeout)
	pick(&base.Window, chosen.Window)
	pick(&base.History, chosen.History)
	pick(&base.JournalBytes, chosen.JournalBytes)
	pick(&base.ReplicateTo, chosen.ReplicateTo)
	return agree(before, base, chosen.Window != 0, chosen.History != "")
}

// agree has window and history of changed settings say the same, where only one of
// them was named, or neither: a history says the window; and the default history,
// which nobody chose, gives way to a window, which alone keeps every checkpoint,
// and goes with the interval.
func agree(before, after group.Settings, window, history bool) group.Settings {
	byDefault := before.History == group.DefaultHistory(before.CheckpointInterval)
	switch {
	case history && !window:
		after.Window = windowOf(after.History)
	case window && !history && byDefault:
		after.History = ""
	case !history && byDefault:
		after.History = group.DefaultHistory(after.CheckpointInterval)
	}
	return after
}

// windowOf is the window that a history says; 0 if it cannot be read, which
// checkSettings tells.
func windowOf(history string) time.Duration {
	h, err := journal.ParseHistory(history)
	if err != nil {
		return 0
	}
	return h.Window()
}

func pick[T comparable](field *T, value T) {
	var nothing T
	if value != nothing {
		*field = value
	}
}

func baseOf(g catalog.Group) group.Settings {
	if g.Base != nil {
		return *g.Base
	}
	return g.Settings
}

// present returns what a group runs by; nil for one that the backend does not have.
func (s *Server) present(ctx context.Context, name string) (*group.Settings, error) {
	now, err := s.cfg.Backend.GroupSettings(ctx, name)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read settings of group %s: %w", name, err)
	}
	return &now, nil
}

// asItRuns is a group's record with the settings that it runs by, where these are neither
// the record's nor those of a change that is under way: they came with a failover from the
// other site, of which nobody tells the catalog. They count as its parameters' then, and a
// change that an earlier life as the primary has left is over.
func asItRuns(g catalog.Group, present *group.Settings) catalog.Group {
	if present == nil || *present == g.Settings.WithDefaults() || g.Pending != nil && *present == g.Pending.WithDefaults() {
		return g
	}
	base := *present
	g.Settings, g.Base, g.Pending = base, &base, nil
	return g
}

// Choose gives a group settings of its own: what is zero in chosen is as the
// parameters of its volumes have it. ErrNotFound for a group without volumes,
// and ErrInvalid, when nothing was changed.
func (s *Server) Choose(ctx context.Context, name string, chosen group.Settings) error {
	_, err := run(ctx, s, []string{groupKey(name)}, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.choose(ctx, name, chosen)
	})
	return err
}

func (s *Server) choose(ctx context.Context, name string, chosen group.Settings) error {
	present, err := s.present(ctx, name)
	if err != nil {
		return err
	}
	var before, g catalog.Group
	err = s.cfg.Catalog.Update(func(tx *catalog.Tx) error {
		recorded, err := tx.Group(name)
		if err != nil {
			return err
		}
		before = asItRuns(recorded, present)
		g = before
		base := baseOf(g)
		wanted := overlay(base, chosen)
		if g.Pending == nil && wanted == g.Settings && g.Chosen == chosen {
			if g == recorded {
				return nil
			}
			return tx.PutGroup(g)
		}
		if err := checkSettings(wanted); err != nil {
			return err
		}
		g.Base, g.Chosen, g.Pending = &base, chosen, &wanted
		return tx.PutGroup(g)
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return fmt.Errorf("group %s: %w", name, ErrNotFound)
	}
	if err != nil || g.Pending == nil {
		return err
	}
	return s.tryModify(ctx, g, before)
}
