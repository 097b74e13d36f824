package backing

import (
	"fmt"
	"regexp"
)

// Spec is what a volume's store needs.
type Spec struct {
	// Volume is 32 hexadecimal digits.
	Volume string
	// Site and Group are for the labels.
	Site, Group string
	// Claim is NAMESPACE/NAME of the claim that the volume is for; may be empty.
	Claim string
	// VolumeBytes is the volume's size, JournalBytes the journal's.
	VolumeBytes, JournalBytes int64
	// Class is the storage class of the store.
	Class string
	// JournalClass is that of the journal, on a claim of its own; empty: it is
	// with the store.
	JournalClass string
	// New says that nothing was ever stored in the volume: when its claims
	// cannot be had as wanted, those that could are deleted, too. Otherwise
	// a claim that is bound is never deleted but by Delete.
	New bool
	// Node is the node that the scheduler has chosen, which a class that binds
	// at first consumer is told; empty: none.
	Node string
}

// Overhead of a claim: its own file system, the store's catalog and index, the
// checksums of the base (0.8 % of it).
const (
	overheadBytes   = 64 << 20
	overheadPercent = 3
	// granuleBytes is what sizes are rounded up to.
	granuleBytes = 1 << 20
	// maxBytes keeps sums within int64.
	maxBytes = 1 << 60
)

// A journal's own claim has room for what a budget does not count: destage works
// at full speed only when the journal is half as large again, and some segments
// are made ahead, or kept for reuse.
const journalAheadBytes = 320 << 20

// JournalSizeBytes is how big a journal's own claim for a budget is.
func JournalSizeBytes(budgetBytes int64) int64 {
	return SizeBytes(budgetBytes + budgetBytes/2 + journalAheadBytes)
}

// SizeBytes is how big a claim for so much content is.
func SizeBytes(contentBytes int64) int64 {
	size := contentBytes + contentBytes/100*overheadPercent + overheadBytes
	return (size + granuleBytes - 1) / granuleBytes * granuleBytes
}

var volumeName = regexp.MustCompile(`^[0-9a-f]{32}$`)

func (s Spec) validate() error {
	switch {
	case !volumeName.MatchString(s.Volume):
		return fmt.Errorf("%w: volume %q is not 32 hexadecimal digits", ErrInvalid, s.Volume)
	case s.VolumeBytes <= 0 || s.VolumeBytes > maxBytes:
		return fmt.Errorf("%w: a volume of %d bytes", ErrInvalid, s.VolumeBytes)
	case s.JournalBytes < 0 || s.JournalBytes > maxBytes:
		return fmt.Errorf("%w: a journal of %d bytes", ErrInvalid, s.JournalBytes)
	case s.Class == "":
		return fmt.Errorf("%w: no backing storage class: set the parameter backingStorageClass", ErrInvalid)
	case s.JournalClass != "" && s.JournalBytes == 0:
		return fmt.Errorf("%w: a storage class for a journal of no size", ErrInvalid)
	}
	return nil
}

// Fence is what keeps the engines of two nodes from writing to a backing volume
// at the same time, beyond the end of the pod.
type Fence string

const (
	// FenceNode: the volume is on one node.
	FenceNode Fence = "node"
	// FenceAttachment: Kubernetes attaches it, and its storage detaches it.
	FenceAttachment Fence = "attachment"
	// FenceLease: nothing but a lease.
	FenceLease Fence = "lease"
)

// Placement is what is known of a backing volume.
type Placement struct {
	// Bound: there is a volume. Otherwise the claim waits for the engine's pod
	// to be scheduled, and the rest is not known.
	Bound bool
	// Topology is where it can be used: a node has all labels of one of these
	// sets. nil: anywhere.
	Topology []map[string]string
	// Fence is what is needed when the engine moves.
	Fence Fence
	// Volumes are the names of the PersistentVolumes.
	Volumes []string
}
