package site

import (
	"encoding/json"
	"fmt"

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
	// OwnJournal is set for a store whose journal is below Config.JournalRoot.
	OwnJournal bool `json:",omitempty"`
	// Generation is the highest number given to a store directory.
	Generation int
	// From is the directory that a store is being adopted from; empty otherwise.
	From string `json:",omitempty"`
	// Retired volumes are in no group; their pinned images are still read.
	Retired bool `json:",omitempty"`
}

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
	err := s.db.Update(func(tx kv.Tx) error {
		if err := tx.Delete(bucketLostDevices, id[:]); err != nil {
			return err
		}
		if err := forgetUnpins(tx, id); err != nil {
			return err
		}
		return tx.Delete(bucketVolumes, id[:])
	})
	if err != nil {
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
