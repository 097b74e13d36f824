// Package csikeys holds the keys that the controller and the node service
// agree on: what one writes into topologies and contexts the other reads.
package csikeys

import (
	"fmt"
	"regexp"
)

// nodeID is what the CSI specification allows as a topology value.
var nodeID = regexp.MustCompile(`^[0-9A-Za-z]([-0-9A-Za-z_.]{0,61}[0-9A-Za-z])?$`)

// CheckNodeID checks that a node's id can be a topology value: 1 to 63
// letters, digits, '-', '_' and '.', with a letter or digit at both ends.
func CheckNodeID(id string) error {
	if !nodeID.MatchString(id) {
		return fmt.Errorf("node id %q: want 1 to 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit", id)
	}
	return nil
}

const (
	// TopologyNode is the key of the one topology segment: the node whose
	// engines can open a volume.
	TopologyNode = "topology.lockstep.dev/node"
	// FSType, in a volume's context, is the file system for requests that name
	// none.
	FSType = "lockstep.dev/fsType"
	// ReadOnly, in a publish context, is "true" for a volume that was published
	// read-only.
	ReadOnly = "lockstep.dev/readOnly"
)
