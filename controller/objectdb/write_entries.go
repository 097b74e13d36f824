package objectdb

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// entryTries is how often one entry is written before it is left for later: it
// was read before the second time, and only somebody who edits it all the time
// can overtake that.
const entryTries = 3

// writeEntries writes the dirty slots. Called with writer held, after memory
// has their content. ErrFenced if an entry shows that another process has
// committed since.
func (db *DB) writeEntries(ctx context.Context) error {
	var writers errgroup.Group
	writers.SetLimit(entryWriters)
	for i := range db.slots {
		if db.slots[i].dirty {
			writers.Go(func() error { return db.writeEntry(ctx, i) })
		}
	}
	err := writers.Wait()
	if errors.Is(err, ErrFenced) {
		return db.fence(err)
	}
	return err
}

// writeEntry alone touches its slot while it runs.
func (db *DB) writeEntry(ctx context.Context, i int) error {
	s := &db.slots[i]
	wanted, err := db.content(s)
	if err != nil {
		return err
	}
	for range entryTries {
		if s.version == "" && !s.absent {
			if err := db.examine(ctx, i, wanted); err != nil || !s.dirty {
				return err
			}
		}
		object := encodeEntry(db.config.Name, i, s.sequence, wanted)
		object.ResourceVersion = s.version
		var written *corev1.ConfigMap
		if s.absent {
			written, err = db.create(ctx, object)
		} else {
			written, err = db.update(ctx, object)
		}
		switch outcomeOf(err) {
		case applied:
			s.version, s.absent, s.dirty = written.ResourceVersion, false, false
			return nil
		case refused:
			return fmt.Errorf("write %s: %w", object.Name, err)
		case unknown:
			// A repeated create would tell as well as a read, but an update
			// needs the version that the lost one may have made.
			s.version, s.absent = "", false
			return fmt.Errorf("write %s: %w", object.Name, err)
		}
		s.version, s.absent = "", false
	}
	return fmt.Errorf("write entry %d: it is changed by somebody else again and again: %w", i, err)
}

// content is what a slot's object has to hold.
func (db *DB) content(s *slot) (entry, error) {
	e := entry{bucket: s.bucket, key: s.key}
	if e.free() {
		return e, nil
	}
	err := db.memory.View(func(tx kv.Tx) error {
		e.value = tx.Get(s.bucket, []byte(s.key))
		return nil
	})
	return e, err
}

// examine reads a slot's object, of which it is not known how it is, and cleans
// the slot if it is as wanted.
func (db *DB) examine(ctx context.Context, i int, wanted entry) error {
	s := &db.slots[i]
	object, err := db.get(ctx, slotName(db.config.Name, i))
	if apierrors.IsNotFound(err) {
		s.absent = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("read entry %d: %w", i, err)
	}
	found, sequence, err := decodeEntry(object)
	if sequence > db.commit.sequence {
		return fmt.Errorf("%w: %s has commit %d, the last one here is %d", ErrFenced, object.Name, sequence, db.commit.sequence)
	}
	s.version = object.ResourceVersion
	s.dirty = err != nil || sequence != s.sequence || !found.equal(wanted)
	return nil
}
