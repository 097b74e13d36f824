package objectdb

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// load reads the entries, lays the last commit over them, and leaves dirty
// what the entries lack of it. Called by Open, after takeOver.
//
// The process before may still be writing entries of that commit. It writes
// what is wanted here, too, and whoever comes second finds it done.
func (db *DB) load(ctx context.Context) error {
	db.slots = make([]slot, db.commit.slots)
	for i := range db.slots {
		db.slots[i] = slot{absent: true}
	}
	entries := make([]entry, db.commit.slots)
	token := ""
	for {
		page, err := db.list(ctx, token, pageSize)
		if err != nil {
			return fmt.Errorf("list entries: %w", err)
		}
		for i := range page.Items {
			if err := db.loadEntry(&page.Items[i], entries); err != nil {
				return err
			}
		}
		if token = page.Continue; token == "" {
			break
		}
	}
	db.replay(entries)
	return db.fill(entries)
}

func (db *DB) loadEntry(object *corev1.ConfigMap, entries []entry) error {
	i, err := slotOf(db.config.Name, object.Name)
	if err != nil {
		return err
	}
	e, sequence, err := decodeEntry(object)
	if err != nil {
		return err
	}
	if i >= len(entries) || sequence > db.commit.sequence {
		return fmt.Errorf("%w: %s is of a later commit than %s: were they restored from different backups?",
			ErrDamaged, object.Name, commitName(db.config.Name))
	}
	entries[i] = e
	db.slots[i] = slot{bucket: e.bucket, key: e.key, sequence: sequence, version: object.ResourceVersion}
	return nil
}

// replay applies the last commit to the entries that it has not reached.
func (db *DB) replay(entries []entry) {
	for _, ch := range db.commit.changes {
		s := &db.slots[ch.slot]
		if s.absent || s.sequence < db.commit.sequence {
			s.bucket, s.key, s.sequence, s.dirty = ch.bucket, ch.key, db.commit.sequence, true
			entries[ch.slot] = ch.entry
		}
	}
}

// fill makes index and memory from the entries.
func (db *DB) fill(entries []entry) error {
	return db.memory.Update(func(tx kv.Tx) error {
		for i, e := range entries {
			if db.slots[i].absent && !db.slots[i].dirty {
				return fmt.Errorf("%w: ConfigMap %s was deleted: restore it from a backup", ErrDamaged, slotName(db.config.Name, i))
			}
			if e.free() {
				continue
			}
			id := indexKey(e.bucket, e.key)
			if other, taken := db.index[id]; taken {
				return fmt.Errorf("%w: %s and %s have one key, %q of %s: free the one that is wrong by removing its data and its annotation %s",
					ErrDamaged, slotName(db.config.Name, other), slotName(db.config.Name, i), e.key, e.bucket, annotationChecksum)
			}
			db.index[id] = i
			if err := tx.Put(e.bucket, []byte(e.key), e.value); err != nil {
				return fmt.Errorf("%w: %s: %w", ErrDamaged, slotName(db.config.Name, i), err)
			}
		}
		return nil
	})
}
