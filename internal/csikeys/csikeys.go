// Package csikeys holds the keys that the controller and the node service
// agree on: what one writes into topologies and contexts the other reads.
package csikeys

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
