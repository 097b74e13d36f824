package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/group"
)

// creation is a CreateVolume request, checked as far as it can be without the
// catalog.
type creation struct {
	name         string
	sizes        *csi.CapacityRange
	capabilities []*csi.VolumeCapability
	source       *csi.VolumeContentSource
	parameters   volumeParameters
	given        map[string]string // parameters that make a difference
	mutable      settingsPatch
	givenMutable map[string]string
	topology     *csi.TopologyRequirement
	// What the claim says, if there is one; see Claim.
	claim         string
	groupSettings *group.Settings
	asOf          string
	attributes    map[string]string
	node          string
}

// CreateVolume implements csi.ControllerServer.
func (s *Server) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	return answer(s.createVolume(ctx, req))
}

func (s *Server) createVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	c, err := s.checkCreation(req)
	if err != nil {
		return nil, err
	}
	if err := s.consult(ctx, c, req.GetParameters()); err != nil {
		err = fmt.Errorf("create volume %s: %w", c.name, err)
		if errors.Is(err, ErrUnavailable) {
			return nil, err
		}
		return s.endCreate(ctx, c, err)
	}
	keys := []string{volumeKey(c.name)}
	if len(c.givenMutable) > 0 {
		keys = append(keys, groupKey(c.parameters.Group))
	}
	return run(ctx, s, keys, func(ctx context.Context) (*csi.CreateVolumeResponse, error) {
		v, err := s.create(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("create volume %s: %w", c.name, err)
		}
		return &csi.CreateVolumeResponse{Volume: s.describe(v)}, nil
	})
}

func (s *Server) checkCreation(req *csi.CreateVolumeRequest) (*creation, error) {
	if err := requireName("name", req.GetName()); err != nil {
		return nil, err
	}
	if err := checkCapabilities(req.GetVolumeCapabilities()); err != nil {
		return nil, err
	}
	parameters, err := parseVolumeParameters(req.GetParameters())
	if err != nil {
		return nil, err
	}
	mutable, err := parseMutableParameters(req.GetMutableParameters())
	if err != nil {
		return nil, err
	}
	if req.GetVolumeContentSource().GetSnapshot() == nil && parameters.Member != "" {
		return nil, invalid("parameter %s needs a snapshot as the source", ParameterMember)
	}
	if err := s.reachable(req.GetAccessibilityRequirements()); err != nil {
		return nil, err
	}
	if parameters.Group == "" {
		parameters.Group = req.GetName()
	}
	return &creation{
		name: req.GetName(), sizes: req.GetCapacityRange(), capabilities: req.GetVolumeCapabilities(),
		source: req.GetVolumeContentSource(), parameters: parameters, given: withoutDescriptions(req.GetParameters()),
		mutable: mutable, givenMutable: req.GetMutableParameters(), topology: req.GetAccessibilityRequirements(),
	}, nil
}

// create makes the volume, or returns the one that an earlier call made. It
// runs with the volume's lock held.
func (s *Server) create(ctx context.Context, c *creation) (catalog.Volume, error) {
	old, found, err := s.findVolumeNamed(c.name)
	if err != nil {
		return old, err
	}
	if found && old.State == catalog.StateReady {
		if err := c.matches(old); err != nil {
			return old, err
		}
		return old, s.releaseClonePin(ctx, old) // if that failed at the end of the first call
	}
	if found {
		// An earlier call failed and could not be rolled back then.
		if err := s.removeVolume(ctx, old); err != nil {
			return old, fmt.Errorf("%w: %w", errLeft, err)
		}
	}
	v, settings, err := s.beginCreate(c)
	if err != nil {
		return v, err
	}
	if v.Topology, err = s.fill(ctx, c, v, settings); err != nil {
		return v, s.undoCreate(ctx, v, err)
	}
	if err := s.modifyGroup(ctx, v.Group, c.mutable); err != nil {
		return v, s.undoCreate(ctx, v, err)
	}
	v.State = catalog.StateReady
	if err := s.putVolume(v); err != nil {
		return v, err
	}
	if err := s.releaseClonePin(ctx, v); err != nil {
		// The volume is whole without it; a repeated call or the next start
		// releases it.
		s.log.Warn("release clone's pin", "volume", v.ID.String(), "error", err)
	}
	return v, nil
}

// beginCreate records the intent and decides everything that depends on what
// else there is.
func (s *Server) beginCreate(c *creation) (v catalog.Volume, settings group.Settings, err error) {
	err = s.cfg.Catalog.Update(func(tx *catalog.Tx) error {
		v = catalog.Volume{
			Name: c.name, State: catalog.StateCreating, Group: c.parameters.Group,
			FSType: c.parameters.FSType, Parameters: c.given, Mutable: c.givenMutable, Claim: c.claim, Unused: true,
		}
		image, err := resolveSource(tx, c, &v)
		if err != nil {
			return err
		}
		if v.BlockBytes, err = chooseBlockSize(c.parameters.BlockBytes, image.blockBytes); err != nil {
			return err
		}
		fallback := max(image.sizeBytes, minVolumeBytes)
		if image.sizeBytes == 0 {
			fallback = defaultVolumeBytes
		}
		floor := max(image.sizeBytes, floorFor(c.capabilities, c.parameters.FSType))
		if v.SizeBytes, err = chooseSize(c.sizes, floor, fallback); err != nil {
			return err
		}
		if settings, err = joinGroup(tx, c); err != nil {
			return err
		}
		if err := s.takeFreeID(tx, &v); err != nil {
			return err
		}
		if v.Source != nil && v.Source.Volume != "" {
			if err := beginClonePin(tx, &v, image.group, c.asOf); err != nil {
				return err
			}
		}
		return tx.PutVolume(v)
	})
	return v, settings, err
}

// takeFreeID gives v the first id of its name that no retired volume has, nor the site
// keeps for another one.
func (s *Server) takeFreeID(tx *catalog.Tx, v *catalog.Volume) error {
	for generation := uint32(0); ; generation++ {
		v.ID = volumeID(v.Name, generation)
		_, err := tx.Volume(v.ID)
		if err == nil {
			continue
		}
		if !errors.Is(err, catalog.ErrNotFound) {
			return err
		}
		if s.cfg.Reserved == nil {
			return nil
		}
		if reserved, err := s.cfg.Reserved(v.ID); !reserved {
			return err
		}
	}
}

// joinGroup returns the settings of the group that a volume is to be in, and
// records a new one. A volume cannot change an existing group by the way.
func joinGroup(tx *catalog.Tx, c *creation) (group.Settings, error) {
	name := c.parameters.Group
	g, err := tx.Group(name)
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		base := c.mutable.apply(c.parameters.Settings.apply(group.Settings{}.WithDefaults()))
		g = catalog.Group{Name: name, Settings: base, Base: &base}
		if c.groupSettings != nil {
			g.Chosen = *c.groupSettings
			g.Settings = overlay(base, g.Chosen)
		}
		if err := checkSettings(g.Settings); err != nil {
			return g.Settings, err
		}
		return g.Settings, tx.PutGroup(g)
	case err != nil:
		return group.Settings{}, err
	}
	if g.Pending != nil {
		g.Settings = *g.Pending
	}
	// The mutable parameters come first and may change the group; the others
	// have to agree with it, unless it is a claim that has named the group: its
	// class only says what a group is to be that it begins.
	if c.claim == "" && c.mutable.apply(c.parameters.Settings.apply(g.Settings)) != c.mutable.apply(g.Settings) {
		return group.Settings{}, invalid(
			"group %q has other settings (checkpointInterval %s, window %s, history %q, journalSize %d, replicateTo %q, barrierTimeout %s): "+
				"leave these parameters out, or change the group by modifying a volume of it",
			name, g.Settings.CheckpointInterval, g.Settings.Window, g.Settings.History, g.Settings.JournalBytes,
			g.Settings.ReplicateTo, g.Settings.BarrierTimeout)
	}
	return g.Settings, checkSettings(c.mutable.apply(g.Settings))
}

// fill has the backend make the store, from the pin of a clone where needed,
// and returns where it can be used.
func (s *Server) fill(ctx context.Context, c *creation, v catalog.Volume, settings group.Settings) ([]map[string]string, error) {
	spec := StoreSpec{
		ID: v.ID, Name: v.Name, SizeBytes: v.SizeBytes, Group: v.Group, Settings: settings, Claim: c.claim, Node: c.node, Attributes: c.describeTo(v),
		BackingClass: c.parameters.BackingClass, JournalClass: c.parameters.JournalClass,
		Preferred: labelSets(c.topology.GetPreferred()), Requisite: labelSets(c.topology.GetRequisite()),
	}
	if v.Source != nil {
		pin, found, err := s.findPin(v.Source.Pin)
		if err != nil || !found {
			return nil, errors.Join(err, fmt.Errorf("pin %s of the source: %w", v.Source.Pin, ErrNotFound))
		}
		if v.Source.Volume != "" {
			if pin, err = s.takeClonePin(ctx, v, pin); err != nil {
				return nil, err
			}
		}
		spec.Source = &Source{Group: pin.Group, Pin: pin.Name, Member: v.Source.Member}
	}
	return s.cfg.Backend.CreateStore(ctx, spec)
}

// Attributes of a volume that the other site needs to make a claim for it, as
// docs/replication.md names them.
const (
	AttributeFSType    = "fsType"
	AttributeBlockSize = "blockBytes"
)

// describeTo are the attributes of a new volume.
func (c *creation) describeTo(v catalog.Volume) map[string]string {
	out := map[string]string{AttributeBlockSize: strconv.Itoa(v.BlockBytes)}
	if v.FSType != "" {
		out[AttributeFSType] = v.FSType
	}
	maps.Copy(out, c.attributes)
	return out
}

// undoCreate rolls back a creation that failed with cause, which it returns; with
// errLeft if that failed, too.
func (s *Server) undoCreate(ctx context.Context, v catalog.Volume, cause error) error {
	if err := s.removeVolume(ctx, v); err != nil {
		// The record stays; a repeated call or the next start removes it.
		s.log.Warn("undo creation", "volume", v.ID.String(), "error", err)
		return fmt.Errorf("%w: %w: %w", cause, errLeft, err)
	}
	return cause
}

// matches checks that a volume is what the request asks for.
func (c *creation) matches(v catalog.Volume) error {
	differs := ""
	switch {
	case !fits(v.SizeBytes, c.sizes):
		differs = fmt.Sprintf("its size is %d bytes", v.SizeBytes)
	case !maps.Equal(v.Parameters, c.given):
		differs = "its parameters differ"
	case !maps.Equal(v.Mutable, c.givenMutable):
		differs = "its mutable parameters differ"
	case v.Source == nil && c.source != nil, v.Source != nil && c.source == nil:
		differs = "its content source differs"
	case v.Source != nil && (v.Source.Snapshot != c.source.GetSnapshot().GetSnapshotId() ||
		v.Source.Volume != c.source.GetVolume().GetVolumeId()):
		differs = "its content source differs"
	case floorFor(c.capabilities, c.parameters.FSType) > v.SizeBytes:
		differs = "it is too small for the file system"
	default:
		return nil
	}
	return fmt.Errorf("%w: %s", ErrExists, differs)
}
