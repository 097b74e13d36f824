package objectdb

import (
	"context"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// Run watches the objects until ctx ends. An entry that somebody else edits or
// deletes is said (Config.Log, Config.OnEdit) and written again. It returns
// ErrFenced as soon as another process has the database or the commit object
// was changed, kv.ErrPoisoned when the database is, which only the next process
// gets over, and otherwise ctx's error. Call it once.
func (db *DB) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := &sightings{latest: map[string]string{}, wake: make(chan struct{}, 1)}
	var informer sync.WaitGroup
	defer informer.Wait()
	defer cancel()
	informer.Go(func() { db.watch(ctx, seen) })
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-db.doubted:
			db.writer.Lock()
			defer db.writer.Unlock()
			return fmt.Errorf("database %s: %w: %w", db.config.Name, kv.ErrPoisoned, db.doubt)
		case <-seen.wake:
		}
		if err := db.judge(ctx, seen.take()); err != nil {
			return err
		}
	}
}

// sightings are the resourceVersions that the watch has shown and nobody has
// judged. There is one for each object at most.
type sightings struct {
	mu     sync.Mutex // guards latest
	latest map[string]string
	wake   chan struct{} // has room for one
}

// gone is seen in the place of a version when an object is not there.
const gone = ""

func (s *sightings) add(object any) {
	if m, ok := object.(*corev1.ConfigMap); ok {
		s.set(m.Name, m.ResourceVersion)
	}
}

func (s *sightings) remove(object any) {
	// The name is all that is known of an object that ended unwatched.
	if _, name, err := cache.SplitMetaNamespaceKey(keyOf(object)); err == nil {
		s.set(name, gone)
	}
}

func keyOf(object any) string {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object)
	if err != nil {
		return ""
	}
	return key
}

func (s *sightings) set(name, version string) {
	s.mu.Lock()
	s.latest[name] = version
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *sightings) take() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.latest
	s.latest = map[string]string{}
	return taken
}

// watch feeds seen until ctx ends. The contents are thrown away: memory has
// them.
func (db *DB) watch(ctx context.Context, seen *sightings) {
	options := metav1.ListOptions{LabelSelector: db.selector("")}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = options.LabelSelector
			return db.config.Maps.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = options.LabelSelector
			return db.config.Maps.Watch(ctx, o)
		},
	}
	store, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw,
		ObjectType:    &corev1.ConfigMap{},
		Transform: func(object any) (any, error) {
			if m, ok := object.(*corev1.ConfigMap); ok {
				return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, ResourceVersion: m.ResourceVersion}}, nil
			}
			return object, nil
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    seen.add,
			UpdateFunc: func(_, object any) { seen.add(object) },
			DeleteFunc: seen.remove,
		},
	})
	var missing sync.WaitGroup
	defer missing.Wait()
	missing.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), controller.HasSynced) {
			db.addMissing(store, seen)
		}
	})
	controller.RunWithContext(ctx)
}

// addMissing finds what was deleted before the watch began.
func (db *DB) addMissing(store cache.Store, seen *sightings) {
	there := map[string]bool{}
	for _, object := range store.List() {
		if m, ok := object.(*corev1.ConfigMap); ok {
			there[m.Name] = true
		}
	}
	db.writer.Lock()
	count := len(db.slots)
	db.writer.Unlock()
	for i := range count {
		if name := slotName(db.config.Name, i); !there[name] {
			seen.set(name, gone)
		}
	}
	if name := commitName(db.config.Name); !there[name] {
		seen.set(name, gone)
	}
}

// judge tells what others wrote from what this process did, and writes over
// it. It holds writer, so no write of ours is on its way.
func (db *DB) judge(ctx context.Context, seen map[string]string) error {
	db.writer.Lock()
	defer db.writer.Unlock()
	if err := db.refusal(); err != nil {
		return err
	}
	if version, ok := seen[commitName(db.config.Name)]; ok && newer(version, db.version) && db.doubt == nil {
		if _, err := db.readBack(db.commit); err != nil {
			return err
		}
	}
	for name, version := range seen {
		i, err := slotOf(db.config.Name, name)
		if err != nil || i >= len(db.slots) {
			continue
		}
		if s := &db.slots[i]; !s.dirty && !s.absent && newer(version, s.version) {
			if err := db.repair(ctx, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// repair looks at an entry that was written since this process wrote it.
func (db *DB) repair(ctx context.Context, i int) error {
	s := &db.slots[i]
	wanted, err := db.content(s)
	if err != nil {
		return err
	}
	s.dirty = true
	if err := db.examine(ctx, i, wanted); err != nil {
		return db.left(i, err)
	}
	if !s.dirty {
		return nil // labels, or another annotation
	}
	name := slotName(db.config.Name, i)
	db.config.Log.Error("a catalog object was edited or deleted while the controller runs; the edit is undone: stop the controller to edit it",
		"object", name)
	db.config.OnEdit(name)
	if err := db.writeEntry(ctx, i); err != nil {
		return db.left(i, err)
	}
	return nil
}

// left ends the database or leaves an entry to the next commit.
func (db *DB) left(i int, err error) error {
	if errors.Is(err, ErrFenced) {
		return db.fence(err)
	}
	db.config.Log.Warn("could not look at a catalog object that was changed", "object", slotName(db.config.Name, i), "error", err)
	return nil
}

// newer compares versions of one resource. What cannot be compared, such as
// gone, counts as newer, which costs a read.
func newer(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err != nil || order > 0
}
