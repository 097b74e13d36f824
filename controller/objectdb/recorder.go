package objectdb

import (
	"bytes"
	"maps"
	"slices"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// recorder is a transaction that remembers what each changed key had before.
type recorder struct {
	kv.Tx
	before map[string]entry // value nil: the key was not there
}

func (r *recorder) Put(bucket string, key, value []byte) error {
	r.remember(bucket, key)
	return r.Tx.Put(bucket, key, value)
}

func (r *recorder) Delete(bucket string, key []byte) error {
	r.remember(bucket, key)
	return r.Tx.Delete(bucket, key)
}

func (r *recorder) remember(bucket string, key []byte) {
	id := indexKey(bucket, string(key))
	if _, ok := r.before[id]; !ok {
		r.before[id] = entry{bucket: bucket, key: string(key), value: bytes.Clone(r.Tx.Get(bucket, key))}
	}
}

// changed returns the keys whose value is another one now, in a fixed order;
// those that are gone have no value.
func (r *recorder) changed() []entry {
	var list []entry
	for _, id := range slices.Sorted(maps.Keys(r.before)) {
		old := r.before[id]
		value := r.Tx.Get(old.bucket, []byte(old.key))
		if (value == nil) != (old.value == nil) || !bytes.Equal(value, old.value) {
			list = append(list, entry{bucket: old.bucket, key: old.key, value: value})
		}
	}
	return list
}
