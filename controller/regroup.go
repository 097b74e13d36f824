package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// GroupOf returns the group that snapshots of a volume are taken of;
// ErrNotFound.
func (s *Server) GroupOf(id journal.VolumeID) (string, error) {
	v, err := s.volume(id.String())
	return v.Group, err
}

// Regroup makes a volume a member of another group. chosen are the settings
// that were chosen for that one, as in Claim; what they leave open is, for a
// group that does not exist yet, as the volume's parameters have it. move has
// the data plane move the volume, to a group that it makes with the settings
// given if need be; it is called again with the same arguments after a crash
// behind it. Idempotent. ErrNotFound, and ErrInUse while a snapshot of the
// present group is being taken.
func (s *Server) Regroup(ctx context.Context, id journal.VolumeID, to string, chosen *group.Settings, move func(ctx context.Context, settings group.Settings) error) error {
	v, err := s.volume(id.String())
	if err != nil || v.Group == to {
		return err
	}
	keys := []string{volumeKey(v.Name), groupKey(v.Group), groupKey(to)}
	_, err = run(ctx, s, keys, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.regroup(ctx, v, to, chosen, move)
	})
	if err != nil {
		return fmt.Errorf("move volume %s to group %s: %w", id, to, err)
	}
	return nil
}

func (s *Server) regroup(ctx context.Context, seen catalog.Volume, to string, chosen *group.Settings, move func(context.Context, group.Settings) error) error {
	var target catalog.Group
	begin := s.cfg.Catalog.Update
	if seen.Moved {
		begin = s.cfg.Catalog.View
	}
	err := begin(func(tx *catalog.Tx) error {
		v, err := readyVolume(tx, seen.ID.String())
		if err != nil {
			return err
		}
		if v.Group != seen.Group {
			return fmt.Errorf("it has just moved to group %s: %w", v.Group, ErrInUse)
		}
		if err := mayLeave(tx, v); err != nil {
			return err
		}
		if target, err = groupFor(tx, v, to, chosen); err != nil || seen.Moved {
			return err
		}
		// Noted before it leaves: a pin that is begun from here on may have it or not,
		// wherever it is by the time that it is deleted.
		v.Moved = true
		return tx.PutVolume(v)
	})
	if err != nil {
		return err
	}
	if err := move(ctx, target.Settings); err != nil {
		return err
	}
	return s.cfg.Catalog.Update(func(tx *catalog.Tx) error {
		v, err := readyVolume(tx, seen.ID.String())
		if err != nil {
			return err
		}
		v.Group = to
		return errors.Join(tx.PutGroup(target), tx.PutVolume(v), dropEmptyGroup(tx, seen.Group))
	})
}

// mayLeave refuses while a pin of the group is being taken: whether the volume
// is in it is known only then, and a volume that is deleted in another group
// would not be kept for it.
func mayLeave(tx *catalog.Tx, v catalog.Volume) error {
	pins, err := tx.Pins()
	if err != nil {
		return err
	}
	for _, pin := range pins {
		if pin.State == catalog.StateCreating && pin.Group == v.Group {
			return fmt.Errorf("a snapshot of group %s is being taken: %w", v.Group, ErrInUse)
		}
	}
	return nil
}

// groupFor is the group that a volume goes to, as it is or is to be made.
func groupFor(tx *catalog.Tx, v catalog.Volume, name string, chosen *group.Settings) (catalog.Group, error) {
	g, err := tx.Group(name)
	if err == nil || !errors.Is(err, catalog.ErrNotFound) {
		return g, err
	}
	base, err := classSettings(tx, v)
	if err != nil {
		return g, err
	}
	g = catalog.Group{Name: name, Settings: base, Base: &base}
	if chosen != nil {
		g.Chosen = *chosen
		g.Settings = overlay(base, g.Chosen)
	}
	return g, checkSettings(g.Settings)
}

// classSettings are the settings that a volume's parameters ask for. One that
// came with a failover has none, and takes its group's along.
func classSettings(tx *catalog.Tx, v catalog.Volume) (group.Settings, error) {
	if v.Parameters == nil && v.Mutable == nil {
		g, err := tx.Group(v.Group)
		return baseOf(g), err
	}
	parameters, err := parseVolumeParameters(v.Parameters)
	if err != nil {
		return group.Settings{}, err
	}
	mutable, err := parseMutableParameters(v.Mutable)
	return mutable.apply(parameters.Settings.apply(group.Settings{}.WithDefaults())), err
}
