package objectdb

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/lockstep-csi/lockstep/internal/kubenames"
	"github.com/lockstep-csi/lockstep/internal/kv"
)

// Open takes the database over from whoever has it and reads it; an empty one
// is made when there is none. On return no other process can commit any more,
// and the last commit is in its entries.
//
// ErrDamaged if the objects were changed from outside while it was closed,
// ErrFenced if another process opened it meanwhile. ctx bounds Open alone. The
// caller runs Run, and closes the database.
func Open(ctx context.Context, config Config) (*DB, error) {
	if err := config.complete(); err != nil {
		return nil, err
	}
	db := &DB{config: config, memory: kv.NewMemory(), index: map[string]int{}, doubted: make(chan struct{})}
	db.life, db.end = context.WithCancel(context.Background())
	if err := db.open(ctx); err != nil {
		db.end()
		return nil, fmt.Errorf("open database %s: %w", config.Name, err)
	}
	return db, nil
}

func (db *DB) open(ctx context.Context) error {
	if err := db.takeOver(ctx); err != nil {
		return err
	}
	err := db.load(ctx)
	if err == nil {
		err = db.writeEntries(ctx)
	}
	if errors.Is(err, ErrDamaged) {
		// What looks like damage may be the work of a process that took over.
		if object, readErr := db.get(ctx, commitName(db.config.Name)); readErr == nil && object.Data[fieldOwner] != db.commit.owner {
			return fmt.Errorf("%w: by %s", ErrFenced, object.Data[fieldOwner])
		}
	}
	return err
}

// takeOver writes this process into the commit object. Its commit stays.
func (db *DB) takeOver(ctx context.Context) error {
	owner := rand.Text()
	tries := newTries(db.config.Clock, db.config.Patience)
	defer tries.stop()
	for {
		done, err := db.tryTakeOver(ctx, owner)
		if done {
			return err
		}
		if !tries.next(ctx) {
			return errors.Join(err, ctx.Err())
		}
	}
}

// tryTakeOver reads the commit object and writes the owner. It is not done when
// somebody else wrote in between, or when that cannot be known; what a lost
// write did is seen by reading again.
func (db *DB) tryTakeOver(ctx context.Context, owner string) (done bool, err error) {
	object, err := db.get(ctx, commitName(db.config.Name))
	if apierrors.IsNotFound(err) {
		return db.tryMake(ctx, owner)
	}
	if err != nil {
		return outcomeOf(err) == refused, fmt.Errorf("read commit: %w", err)
	}
	found, err := decodeCommit(object)
	if err != nil {
		return true, err
	}
	if found.owner == owner { // by a try whose answer was lost
		db.commit, db.version = found, object.ResourceVersion
		return true, nil
	}
	found.owner = owner
	wanted, err := encodeCommit(db.config.Name, object.ResourceVersion, found)
	if err != nil {
		return true, err
	}
	written, err := db.update(ctx, wanted)
	return db.tookOver(found, written, err)
}

// tryMake makes the commit object of an empty database, unless there are
// entries: then it was deleted, and with it what the entries lack.
func (db *DB) tryMake(ctx context.Context, owner string) (done bool, err error) {
	page, err := db.list(ctx, "", 1)
	if err != nil {
		return outcomeOf(err) == refused, fmt.Errorf("look for entries: %w", err)
	}
	if len(page.Items) > 0 {
		return true, fmt.Errorf("%w: ConfigMap %s is gone and its entries are there: restore it from a backup", ErrDamaged, commitName(db.config.Name))
	}
	fresh := commit{owner: owner, writer: owner}
	wanted, err := encodeCommit(db.config.Name, "", fresh)
	if err != nil {
		return true, err
	}
	written, err := db.create(ctx, wanted)
	return db.tookOver(fresh, written, err)
}

func (db *DB) tookOver(c commit, written *corev1.ConfigMap, err error) (done bool, _ error) {
	if err == nil {
		db.commit, db.version = c, written.ResourceVersion
		return true, nil
	}
	return outcomeOf(err) == refused, fmt.Errorf("take over: %w", err)
}

// list returns a page of entries, as they are in etcd.
func (db *DB) list(ctx context.Context, token string, limit int64) (*corev1.ConfigMapList, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return db.config.Maps.List(ctx, metav1.ListOptions{LabelSelector: db.selector(kindEntry), Limit: limit, Continue: token})
}

// selector chooses objects of this database.
func (db *DB) selector(kind string) string {
	set := labels.Set{labelDatabase: db.config.Name}
	if kind != "" {
		set[kubenames.LabelCatalog] = kind
	}
	return set.String()
}
