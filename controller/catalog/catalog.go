package catalog

import (
	"fmt"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// Buckets of the database.
const (
	bucketVolumes        = "csi-volumes"         // by volume id
	bucketVolumeNames    = "csi-volume-names"    // request name to volume id
	bucketRetired        = "csi-retired"         // ids of retired volumes
	bucketPins           = "csi-pins"            // by pin name
	bucketSnapshots      = "csi-snapshots"       // by snapshot id
	bucketGroupSnapshots = "csi-group-snapshots" // by group snapshot id
	bucketGroups         = "csi-groups"          // by group name
)

// Catalog reads and changes records in transactions. Its methods may be
// called concurrently.
type Catalog struct{ db kv.DB }

// New returns the catalog that lives in db, in buckets whose names begin with
// "csi-". The database stays the caller's to close.
func New(db kv.DB) *Catalog { return &Catalog{db: db} }

// View runs fn on a consistent snapshot of the catalog.
func (c *Catalog) View(fn func(*Tx) error) error {
	return c.db.View(func(tx kv.Tx) error { return fn(&Tx{tx}) })
}

// Update runs fn and makes all its changes durable before it returns nil, or
// none of them if it returns an error. Updates run one at a time, so fn may
// decide on what it reads; it must not block.
func (c *Catalog) Update(fn func(*Tx) error) error {
	return c.db.Update(func(tx kv.Tx) error { return fn(&Tx{tx}) })
}

// Tx is a transaction, valid until the function that received it returns.
type Tx struct{ tx kv.Tx }

func get[T any](t *Tx, bucket, key string) (T, error) {
	var record T
	value := t.tx.Get(bucket, []byte(key))
	if value == nil {
		return record, fmt.Errorf("%s/%s: %w", bucket, key, ErrNotFound)
	}
	return record, decode(bucket, []byte(key), value, &record)
}

func put(t *Tx, bucket, key string, record any) error {
	value, err := encode(record)
	if err != nil {
		return err
	}
	return t.tx.Put(bucket, []byte(key), value)
}

// each calls fn for the records whose key is greater than after, in ascending
// order, until fn returns false.
func each[T any](t *Tx, bucket, after string, fn func(T) bool) error {
	var failed error
	t.tx.Range(bucket, []byte(after), func(key, value []byte) bool {
		if after != "" && string(key) == after {
			return true
		}
		var record T
		if failed = decode(bucket, key, value, &record); failed != nil {
			return false
		}
		return fn(record)
	})
	return failed
}
