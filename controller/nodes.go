package controller

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/internal/csikeys"
)

// Nodes is where volumes can be used. Its methods may be called concurrently.
type Nodes interface {
	// Check returns ErrNotFound for a node that no volume can be published to.
	Check(ctx context.Context, node string) error
	// Reaches reports whether a volume could be made that can be used on every
	// node with these labels.
	Reaches(labels map[string]string) bool
}

// OneNode is a site that is one node; see csikeys.CheckNodeID.
func OneNode(id string) (Nodes, error) {
	if err := csikeys.CheckNodeID(id); err != nil {
		return nil, fmt.Errorf("controller configuration: %w", err)
	}
	return oneNode(id), nil
}

type oneNode string

func (n oneNode) Check(_ context.Context, node string) error {
	if node != string(n) {
		return fmt.Errorf("node %s: %w", node, ErrNotFound)
	}
	return nil
}

func (n oneNode) Reaches(labels map[string]string) bool {
	for key, value := range labels {
		if key != csikeys.TopologyNode || value != string(n) {
			return false
		}
	}
	return true
}

// reachable reports whether this site can satisfy a requirement at all.
func (s *Server) reachable(requirement *csi.TopologyRequirement) error {
	if len(requirement.GetRequisite()) == 0 {
		// Preferred alone binds nothing.
		return nil
	}
	for _, topology := range requirement.GetRequisite() {
		if s.cfg.Nodes.Reaches(topology.GetSegments()) {
			return nil
		}
	}
	return fmt.Errorf("%w: no node of this site is in one of the required topologies", ErrExhausted)
}

// labelSets are the topologies of a list, in its order.
func labelSets(topologies []*csi.Topology) []map[string]string {
	var sets []map[string]string
	for _, t := range topologies {
		sets = append(sets, t.GetSegments())
	}
	return sets
}

// topologyOf is where a volume can be used.
func topologyOf(labels []map[string]string) []*csi.Topology {
	var out []*csi.Topology
	for _, set := range labels {
		out = append(out, &csi.Topology{Segments: set})
	}
	return out
}
