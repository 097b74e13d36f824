package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/journal"
)

// image describes what a new volume is made from; zero without a source.
type image struct {
	group      string // of the source volume
	sizeBytes  int64
	blockBytes int
}

// resolveSource finds the source that a creation names and records it in v.
func resolveSource(tx *catalog.Tx, c *creation, v *catalog.Volume) (image, error) {
	switch {
	case c.source == nil:
		return image{}, nil
	case c.source.GetSnapshot() != nil:
		return resolveSnapshot(tx, c, v)
	case c.source.GetVolume() != nil:
		return resolveVolume(tx, c.source.GetVolume().GetVolumeId(), v)
	}
	return image{}, invalid("volume content source has no type")
}

func resolveVolume(tx *catalog.Tx, id string, v *catalog.Volume) (image, error) {
	source, err := readyVolume(tx, id)
	if err != nil {
		return image{}, fmt.Errorf("source: %w", err)
	}
	v.Source = &catalog.Source{Volume: id, Member: source.ID}
	return image{group: source.Group, sizeBytes: source.SizeBytes, blockBytes: source.BlockBytes}, nil
}

func resolveSnapshot(tx *catalog.Tx, c *creation, v *catalog.Volume) (image, error) {
	id := c.source.GetSnapshot().GetSnapshotId()
	snapshot, pin, err := readySnapshot(tx, id)
	if err != nil {
		return image{}, fmt.Errorf("source: %w", err)
	}
	member, err := chooseMember(tx, snapshot, pin, c.parameters.Member)
	if err != nil {
		return image{}, err
	}
	v.Source = &catalog.Source{Snapshot: id, Pin: pin.Name, Member: member}
	img := image{group: pin.Group, sizeBytes: pin.Members[member]}
	// A member's record is kept as long as a pin lists it.
	if source, err := tx.Volume(member); err == nil {
		img.blockBytes = source.BlockBytes
	} else if !errors.Is(err, catalog.ErrNotFound) {
		return image{}, err
	}
	return img, nil
}

// chooseMember finds the member that is named by id, by name, or by NAMESPACE/NAME
// of its claim.
func chooseMember(tx *catalog.Tx, snapshot catalog.Snapshot, pin catalog.Pin, wanted string) (journal.VolumeID, error) {
	if wanted == "" {
		return snapshot.Source, nil
	}
	var known []string
	for _, id := range slices.SortedFunc(maps.Keys(pin.Members), compareIDs) {
		member, err := tx.Volume(id)
		if err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return id, err
		}
		if id.String() == wanted || err == nil && (member.Name == wanted || member.Claim != "" && member.Claim == wanted) {
			return id, nil
		}
		known = append(known, fmt.Sprintf("%s (%s)", cmp.Or(member.Claim, member.Name), id))
	}
	return journal.VolumeID{}, invalid("%s: %q was no member of group %q at checkpoint %d; members were %s",
		ParameterMember, wanted, pin.Group, pin.Checkpoint, strings.Join(known, ", "))
}

func compareIDs(a, b journal.VolumeID) int { return strings.Compare(string(a[:]), string(b[:])) }

// chooseBlockSize picks a logical block size. What was written to a device of
// smaller blocks, a file system for one, cannot be used with bigger ones.
func chooseBlockSize(wanted, source int) (int, error) {
	switch {
	case wanted == 0 && source == 0:
		return 512, nil
	case wanted == 0:
		return source, nil
	case source != 0 && wanted > source:
		return 0, invalid("parameter %s=%d: the source has blocks of %d bytes", ParameterBlockSize, wanted, source)
	}
	return wanted, nil
}

// beginClonePin records the pin that a clone is made from: of the present, or of
// the moment that asOf names.
func beginClonePin(tx *catalog.Tx, v *catalog.Volume, sourceGroup, asOf string) error {
	v.Source.Pin = "clone-" + v.ID.String()
	return tx.PutPin(catalog.Pin{
		Name: v.Source.Pin, Group: sourceGroup, State: catalog.StateCreating,
		OwnerKind: catalog.OwnerClone, OwnerID: v.ID.String(), AsOf: asOf,
	})
}

// takeClonePin pins the moment of its source that a clone is of. The pin keeps the source
// from being deleted under the copy, and the copy from mixing two moments.
func (s *Server) takeClonePin(ctx context.Context, v catalog.Volume, pin catalog.Pin) (catalog.Pin, error) {
	pin, err := s.takePin(ctx, pin)
	if errors.Is(err, ErrUntouched) {
		return pin, errors.Join(err, s.forgetPin(ctx, pin))
	}
	if err != nil {
		return pin, err
	}
	size, member := pin.Members[v.Source.Member]
	if !member {
		return pin, fmt.Errorf("source volume %s was deleted: %w", v.Source.Volume, ErrNotFound)
	}
	if size > v.SizeBytes {
		return pin, fmt.Errorf("source volume %s grew meanwhile: %w", v.Source.Volume, ErrBusy)
	}
	return pin, s.settlePin(ctx, pin)
}
