package enginepod

import (
	"encoding/json"
	"fmt"
	"path"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

const (
	databaseFile  = "engine.db"
	bucketEngine  = "engine"
	recordKey     = "record"
	recordVersion = 1
)

// record is all that an engine durably knows beside its store.
type record struct {
	Version int `json:"version"`
	// Orders are the newest that were accepted; zero before the first.
	Orders control.Orders `json:"orders"`
	// FencedBelow is the lowest term whose replication is still taken.
	FencedBelow uint64 `json:"fencedBelow,omitempty"`
	// Controller is the highest number of a controller that has called; 0: none, or only such as
	// called an earlier version.
	Controller uint64 `json:"controller,omitempty"`
	// Store is the directory of the volume's store; empty while there is none.
	Store string `json:"store,omitempty"`
	// Generation is the highest number given to a store's directory.
	Generation int `json:"generation,omitempty"`
	// Device is the identity of the device that the volume has, on whatever node;
	// empty: it has none, or one without an identity. It is written before anybody can
	// use the device. A device with another identity that waits for an engine is older
	// than what the volume holds. nil: never written, as by earlier versions; a new record
	// has it empty.
	Device *string `json:"device,omitempty"`
	// Boot is Config.Boot of where Device is; empty: it is not known, as of earlier versions.
	Boot string `json:"boot,omitempty"`
	// Disk is Config.Disk, in that run of the kernel, of the journal that holds what was
	// written to Device; empty: it is not known, as of earlier versions.
	Disk string `json:"disk,omitempty"`
}

// setDevice notes which device the volume has, and where; see Device, Boot and Disk.
func (r *record) setDevice(identity, boot, disk string) {
	r.Device, r.Boot, r.Disk = &identity, boot, disk
	if identity == "" {
		r.Boot, r.Disk = "", ""
	}
}

// hasDevice reports whether setDevice would change nothing but what is not known now.
func (r *record) hasDevice(identity, boot, disk string) bool {
	return r.Device != nil && *r.Device == identity && (identity == "" || (boot == "" || boot == r.Boot && (disk == "" || disk == r.Disk)))
}

// leftBehind reports whether the volume's device is on another machine than boot tells of,
// or on one that has started anew since, and is gone with what it ran.
func (r *record) leftBehind(boot string) bool { return boot != "" && r.Boot != "" && r.Boot != boot }

// takenFrom reports whether the journal's disk was taken from the device's machine, and
// attached to it again, since it was noted. What had not got to the disk by then is gone.
func (r *record) takenFrom(boot, disk string) bool {
	return boot != "" && r.Boot == boot && disk != "" && r.Disk != "" && r.Disk != disk
}

// devicesOutdated reports whether no device that waits somewhere may be taken over.
func (r *record) devicesOutdated() bool { return r.Device != nil && *r.Device == "" }

// openDatabase opens a backing volume's database, which is locked against
// other processes of this machine, and reads the record; a zero one if it is
// new. journal.ErrForeign if it is another volume's.
func openDatabase(files vfs.FS, dir string, volume journal.VolumeID) (kv.DB, record, error) {
	db, err := files.OpenDB(path.Join(dir, databaseFile))
	if err != nil {
		return nil, record{}, fmt.Errorf("open backing volume: %w", err)
	}
	r := record{Version: recordVersion}
	err = db.View(func(tx kv.Tx) error {
		raw := tx.Get(bucketEngine, []byte(recordKey))
		if raw == nil {
			r.Device = new(string)
			return nil
		}
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("%w: %w", journal.ErrCorrupt, err)
		}
		switch {
		case r.Version != recordVersion:
			return fmt.Errorf("version %d: %w", r.Version, journal.ErrVersion)
		case r.Orders.Term != 0 && r.Orders.Volume != volume:
			return fmt.Errorf("it is volume %s, not %s: %w", r.Orders.Volume, volume, journal.ErrForeign)
		}
		return nil
	})
	if err != nil {
		_ = db.Close() // it was only read
		return nil, record{}, fmt.Errorf("read %s: %w", path.Join(dir, databaseFile), err)
	}
	return db, r, nil
}

// save replaces the record; durable on return.
func (r record) save(db kv.DB) error {
	raw, err := json.Marshal(r)
	if err == nil {
		err = db.Update(func(tx kv.Tx) error { return tx.Put(bucketEngine, []byte(recordKey), raw) })
	}
	if err != nil {
		return fmt.Errorf("save engine's record: %w", err)
	}
	return nil
}
