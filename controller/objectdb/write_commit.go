package objectdb

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// writeCommit returns nil when the commit is written, and another error than
// ErrFenced and the doubt only when it is not and never will be.
//
// A write whose answer is lost may be carried out later, even after a read
// that does not show it. So the same write is tried again until the server
// says what it is: either the first or the second try is carried out, and the
// resourceVersion that both carry lets only one of them through.
func (db *DB) writeCommit(next commit) error {
	object, err := encodeCommit(db.config.Name, db.version, next)
	if err != nil {
		return err
	}
	tries := newTries(db.config.Clock, db.config.Patience)
	defer tries.stop()
	doubt := false
	for {
		var done bool
		done, err = db.tryCommit(object, next, &doubt)
		if done {
			return err
		}
		db.config.Log.Warn("outcome of a catalog commit is unknown, trying again", "database", db.config.Name, "error", err)
		if !tries.next(db.life) {
			db.doubt = fmt.Errorf("outcome of commit %d is unknown: %w", next.sequence, err)
			close(db.doubted) // once: no other commit is begun
			return db.doubt
		}
	}
}

// tryCommit writes the commit once and, where it was overtaken, finds out by
// what. doubt is set while an earlier try may yet be carried out.
func (db *DB) tryCommit(object *corev1.ConfigMap, next commit, doubt *bool) (done bool, err error) {
	written, err := db.update(db.life, object)
	switch outcomeOf(err) {
	case applied:
		db.version = written.ResourceVersion
		return true, nil
	case refused:
		return !*doubt, err
	case overtaken:
		return db.readBack(next)
	}
	*doubt = true
	return false, err
}

// readBack looks whether the commit object shows the commit after a write of
// it was overtaken. If not, somebody else wrote it, and no try of ours can be
// carried out any more.
func (db *DB) readBack(next commit) (done bool, err error) {
	object, err := db.get(db.life, commitName(db.config.Name))
	if apierrors.IsNotFound(err) {
		return true, db.fence(fmt.Errorf("%w: its commit object was deleted", ErrFenced))
	}
	if err != nil {
		return false, fmt.Errorf("read commit back: %w", err)
	}
	found, err := decodeCommit(object)
	switch {
	case err != nil:
		return true, db.fence(fmt.Errorf("%w: %w", ErrFenced, err))
	case found.owner != next.owner:
		return true, db.fence(fmt.Errorf("%w: by %s", ErrFenced, found.owner))
	case found.writer == next.writer && found.sequence == next.sequence:
		db.version = object.ResourceVersion
		return true, nil
	}
	return true, db.fence(fmt.Errorf("%w: its commit object was edited", ErrFenced))
}

// fence closes the database for good.
func (db *DB) fence(reason error) error {
	db.refuse(reason)
	return reason
}

// get reads an object as it is in etcd.
func (db *DB) get(ctx context.Context, name string) (*corev1.ConfigMap, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return db.config.Maps.Get(ctx, name, metav1.GetOptions{})
}

func (db *DB) create(ctx context.Context, object *corev1.ConfigMap) (*corev1.ConfigMap, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return db.config.Maps.Create(ctx, object, metav1.CreateOptions{})
}

// update replaces an object if it still has the object's resourceVersion.
func (db *DB) update(ctx context.Context, object *corev1.ConfigMap) (*corev1.ConfigMap, error) {
	if object.ResourceVersion == "" {
		return nil, errors.New("no resourceVersion to update from")
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return db.config.Maps.Update(ctx, object, metav1.UpdateOptions{})
}
