package controller

import (
	"context"
	"fmt"
	"maps"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/group"
)

// Keys that a provisioner adds to the parameters to say which claim a volume is
// for.
const (
	claimNameKey      = "csi.storage.k8s.io/pvc/name"
	claimNamespaceKey = "csi.storage.k8s.io/pvc/namespace"
)

// Claims tells what is known of the claim that a volume is for.
type Claims interface {
	// Claim reads a claim; ErrNotFound if it was deleted meanwhile, and
	// ErrInvalid, with what is wrong, for annotations that cannot be understood.
	Claim(ctx context.Context, namespace, name string) (Claim, error)
}

// Claim is what a claim says of its volume.
type Claim struct {
	// Group is the volume's group. Settings are those that were chosen for it;
	// what is zero in them, and all with nil, is the parameters' to say if the
	// volume is the first of it.
	Group    string
	Settings *group.Settings
	// AsOf is the moment of the source volume that a clone is to be of, as
	// the asOf parameter of snapshots has it; empty: the present.
	AsOf string
	// Member is NAMESPACE/NAME of the claim whose image a volume that is made
	// from a snapshot is to have; empty: of the claim that the snapshot is of.
	Member string
	// Attributes describe the claim to the other site.
	Attributes map[string]string
	// Node is where the scheduler has a pod that is to use it; empty: it has not
	// chosen.
	Node string
}

// consult completes a creation with what its claim says. Without a claim, or
// where nobody knows of claims, the parameters decide alone.
func (s *Server) consult(ctx context.Context, c *creation, parameters map[string]string) error {
	namespace, name := parameters[claimNamespaceKey], parameters[claimNameKey]
	if s.cfg.Claims == nil || namespace == "" || name == "" {
		return nil
	}
	claim, err := s.cfg.Claims.Claim(ctx, namespace, name)
	if err != nil {
		return err
	}
	c.claim = namespace + "/" + name
	c.attributes = maps.Clone(claim.Attributes)
	c.groupSettings, c.node = claim.Settings, claim.Node
	if claim.Group != "" {
		c.parameters.Group = claim.Group
	}
	if claim.Member != "" {
		if c.source.GetSnapshot() == nil {
			return invalid("claim %s names a member (%s), which needs a snapshot as the data source", c.claim, claim.Member)
		}
		c.parameters.Member = claim.Member
	}
	if claim.AsOf == "" {
		return nil
	}
	if c.source.GetVolume() == nil {
		return invalid("claim %s names a moment of the past (%s), which needs a claim as the data source", c.claim, claim.AsOf)
	}
	if _, err := parseMoment(claim.AsOf); err != nil {
		return invalid("claim %s: %q: %v", c.claim, claim.AsOf, err)
	}
	c.asOf = claim.AsOf
	return nil
}

// endCreate answers a creation whose claim is gone, or says by now what nobody
// understands, which cause tells. A provisioner goes on asking for a volume that it was
// not told the end of, also when the claim was deleted, and forgets it with the first
// answer that is final: so that is given only when nothing is left of earlier calls. A
// volume that they have made, a copy that took its time for one, is returned, for the
// provisioner to delete if its claim is gone.
func (s *Server) endCreate(ctx context.Context, c *creation, cause error) (*csi.CreateVolumeResponse, error) {
	return run(ctx, s, []string{volumeKey(c.name)}, func(ctx context.Context) (*csi.CreateVolumeResponse, error) {
		v, found, err := s.findVolumeNamed(c.name)
		switch {
		case err != nil:
			return nil, fmt.Errorf("create volume %s: %w", c.name, err)
		case !found:
			return nil, cause
		case v.State != catalog.StateReady:
			return nil, s.undoCreate(ctx, v, cause)
		}
		if err := c.matches(v); err != nil {
			return nil, fmt.Errorf("create volume %s: %w", c.name, err)
		}
		return &csi.CreateVolumeResponse{Volume: s.describe(v)}, nil
	})
}
