// Package kubenames has the names, labels and annotations of the objects that
// the roles make in a cluster (docs/kubernetes.md, "Names"). It imports
// nothing of Kubernetes, so that every role may use it.
//
// volume is a volume's 32 hexadecimal digits everywhere.
package kubenames

import (
	"crypto/sha256"
	"encoding/hex"
)

const (
	// LabelVolume is on everything that belongs to one volume.
	LabelVolume = "lockstep.dev/volume"
	// LabelSite names the site.
	LabelSite = "lockstep.dev/site"
	// LabelGroup is a GroupHash, since a group's name is no valid label.
	LabelGroup = "lockstep.dev/group-hash"
	// LabelComponent is the recommended label for what an object is.
	LabelComponent = "app.kubernetes.io/component"
	// LabelPart tells a volume's claims apart: PartStore or PartJournal.
	LabelPart = "lockstep.dev/part"
	// LabelCatalog is on the objects of the controller's database.
	LabelCatalog = "lockstep.dev/catalog"

	// AnnotationClaim is NAMESPACE/NAME of the claim that the volume is for.
	AnnotationClaim = "lockstep.dev/claim"
	// AnnotationGroup is the group's name.
	AnnotationGroup = "lockstep.dev/group"

	// ComponentEngine is LabelComponent's value of engine pods and what belongs
	// to them.
	ComponentEngine = "engine"
	// PartStore and PartJournal are LabelPart's values.
	PartStore   = "store"
	PartJournal = "journal"
)

// BackingClaim is the name of the claim that a volume's store is on.
func BackingClaim(volume string) string { return "lockstep-" + volume }

// JournalClaim is the name of the claim that a volume's journal is on, where
// it has a class of its own.
func JournalClaim(volume string) string { return "lockstep-" + volume + "-journal" }

// Engine is the name of a volume's engine pod, of its lease and of its
// disruption budget.
func Engine(volume string) string { return "engine-" + volume }

// EngineB is the other name of a volume's engine pod: a handover goes from the
// one to the other.
func EngineB(volume string) string { return Engine(volume) + "-b" }

// GroupHash is a label value for a group's name: 16 hexadecimal digits.
func GroupHash(group string) string {
	sum := sha256.Sum256([]byte(group))
	return hex.EncodeToString(sum[:8])
}
