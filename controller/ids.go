package controller

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/lockstep-csi/lockstep/journal"
)

// Ids are hashes of the names that callers chose: names may have 128 bytes of
// any script, and the same request leads to the same id also when the catalog
// was lost. A different prefix for each kind keeps them apart.

// volumeID is the id of the volume called name. generation is 0 except where
// retired volumes of the same name hold the lower ones.
func volumeID(name string, generation uint32) journal.VolumeID {
	var id journal.VolumeID
	sum := hash("volume", name, generation)
	copy(id[:], sum[:])
	return id
}

func snapshotID(name string) string      { return textID("snapshot", name) }
func groupSnapshotID(name string) string { return textID("group snapshot", name) }

// memberSnapshotID is the id of one volume's snapshot in a group snapshot.
func memberSnapshotID(groupSnapshot string, volume journal.VolumeID) string {
	return textID("member snapshot", groupSnapshot+volume.String())
}

func textID(kind, name string) string {
	sum := hash(kind, name, 0)
	return hex.EncodeToString(sum[:len(journal.VolumeID{})])
}

func hash(kind, name string, generation uint32) [sha256.Size]byte {
	text := append([]byte("lockstep "+kind+"\x00"), name...)
	if generation > 0 {
		text = binary.BigEndian.AppendUint32(append(text, 0), generation)
	}
	return sha256.Sum256(text)
}
