package site

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

const bucketForks = "forks"

// ForkState is how far a fork has come.
type ForkState string

// States of forks, see docs/decisions/0016-writable-forks.md. What is creating or
// discarding after a crash is removed. One is committing exactly while an operation of
// its group is pending that makes it production.
const (
	ForkCreating   ForkState = "creating"
	ForkOpen       ForkState = "open"
	ForkCommitting ForkState = "committing"
	ForkDiscarding ForkState = "discarding"
	ForkGivenUp    ForkState = "given-up"
)

// forkRecord is what the site durably knows of a fork.
type forkRecord struct {
	Name       string
	Group      string
	State      ForkState
	Created    time.Time
	MaxAge     time.Duration
	QuotaBytes int64
	Point      group.Point // none while creating
	// Overlays are the volume ids of the members' overlays.
	Overlays map[journal.VolumeID]journal.VolumeID
	// Reason and Ended are why and when the fork was given up.
	Reason string    `json:",omitempty"`
	Ended  time.Time `json:",omitzero"`
	// Removed is set once nothing is left of one that was given up.
	Removed bool `json:",omitempty"`
}

// pin is the name under which the fork's members are pinned.
func (r *forkRecord) pin() string { return groups.ForkPinPrefix + r.Name }

func (s *Site) saveFork(r forkRecord) error { return s.db.Update(r.put) }

// put saves the record in a transaction.
func (r *forkRecord) put(tx kv.Tx) error {
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record of fork %s: %w", r.Name, err)
	}
	if err := tx.Put(bucketForks, []byte(r.Name), value); err != nil {
		return fmt.Errorf("save record of fork %s: %w", r.Name, err)
	}
	return nil
}

func (s *Site) deleteFork(name string) error {
	if err := s.db.Update(func(tx kv.Tx) error { return tx.Delete(bucketForks, []byte(name)) }); err != nil {
		return fmt.Errorf("delete record of fork %s: %w", name, err)
	}
	return nil
}

func loadForkRecords(db kv.DB) ([]forkRecord, error) {
	var records []forkRecord
	err := db.View(func(tx kv.Tx) error {
		var failed error
		tx.Range(bucketForks, nil, func(key, value []byte) bool {
			var r forkRecord
			if err := json.Unmarshal(value, &r); err != nil {
				failed = fmt.Errorf("read record of fork %q: %w", key, err)
				return false
			}
			records = append(records, r)
			return true
		})
		return failed
	})
	return records, err
}
