package site

import (
	"encoding/json"
	"fmt"
	"path"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

const bucketVolumes = "volumes"

// record is what the site durably knows of a volume.
type record struct {
	ID    journal.VolumeID
	Name  string
	Group string
	// SizeBytes as the primary announced it; for volumes with a store the
	// store knows better.
	SizeBytes int64
	// Store is the directory of the volume's store below its own; empty
	// while a replica has none yet.
	Store string
	// Generation is the highest number given to a store directory.
	Generation int
	// From is the directory that a store is being adopted from; empty otherwise.
	From string `json:",omitempty"`
	// Retired volumes are in no group; their pinned images are still read.
	Retired bool `json:",omitempty"`
}

func (s *Site) volumeDir(id journal.VolumeID) string {
	return path.Join(s.cfg.Root, volumesDir, id.String())
}

// makeVolumeDir makes the directory for a volume's stores; durable on return.
func (s *Site) makeVolumeDir(id journal.VolumeID) error {
	dir := s.volumeDir(id)
	err := s.cfg.FS.MkdirAll(dir)
	if err == nil {
		err = s.cfg.FS.SyncDir(path.Dir(dir))
	}
	if err != nil {
		return fmt.Errorf("make directory of volume %s: %w", id, err)
	}
	return nil
}

// storeDir names a store directory by its generation.
func storeDir(generation int) string { return fmt.Sprintf("store-%d", generation) }

func (s *Site) saveRecord(r record) error {
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record of volume %s: %w", r.ID, err)
	}
	if err := s.db.Update(func(tx kv.Tx) error { return tx.Put(bucketVolumes, r.ID[:], value) }); err != nil {
		return fmt.Errorf("save record of volume %s: %w", r.ID, err)
	}
	return nil
}

func (s *Site) deleteRecord(id journal.VolumeID) error {
	if err := s.db.Update(func(tx kv.Tx) error { return tx.Delete(bucketVolumes, id[:]) }); err != nil {
		return fmt.Errorf("delete record of volume %s: %w", id, err)
	}
	return nil
}

func loadRecords(db kv.DB) ([]record, error) {
	var records []record
	err := db.View(func(tx kv.Tx) error {
		var failed error
		tx.Range(bucketVolumes, nil, func(key, value []byte) bool {
			var r record
			if err := json.Unmarshal(value, &r); err != nil {
				failed = fmt.Errorf("read record of volume %x: %w", key, err)
				return false
			}
			records = append(records, r)
			return true
		})
		return failed
	})
	return records, err
}
