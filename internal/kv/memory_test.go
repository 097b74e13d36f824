package kv_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/kv/kvtest"
)

func TestHookBeforeCommitPreventsIt(t *testing.T) {
	db := kv.NewMemory()
	errCrash := errors.New("crash")
	db.SetHooks(kv.Hooks{BeforeCommit: func() error { return errCrash }})
	err := db.Update(func(tx kv.Tx) error { return tx.Put("x", []byte("a"), nil) })
	if !errors.Is(err, errCrash) {
		t.Fatalf("got %v, want the hook's error", err)
	}
	kvtest.Expect(t, kvtest.Content(t, db.Clone(), "x", ""))
}

func TestHookAfterCommitComesTooLate(t *testing.T) {
	db := kv.NewMemory()
	errCrash := errors.New("crash")
	db.SetHooks(kv.Hooks{AfterCommit: func() error { return errCrash }})
	err := db.Update(func(tx kv.Tx) error { return tx.Put("x", []byte("a"), []byte("1")) })
	if !errors.Is(err, errCrash) {
		t.Fatalf("got %v, want the hook's error", err)
	}
	kvtest.Expect(t, kvtest.Content(t, db.Clone(), "x", ""), "a=1")
}

func TestHooksAreNotCalledForAFailedUpdate(t *testing.T) {
	db := kv.NewMemory()
	calls := 0
	hook := func() error { calls++; return nil }
	db.SetHooks(kv.Hooks{BeforeCommit: hook, AfterCommit: hook})
	_ = db.Update(func(kv.Tx) error { return errors.New("stop") })
	if calls != 0 {
		t.Fatalf("%d calls for an update that failed", calls)
	}
	kvtest.Put(t, db, "x", "a", "1")
	if calls != 2 {
		t.Fatalf("%d calls for a commit, want one before and one after", calls)
	}
}

func TestClonesAreIndependent(t *testing.T) {
	db := kv.NewMemory()
	kvtest.Put(t, db, "x", "a", "1")
	clone := db.Clone()
	kvtest.Put(t, db, "x", "b", "original")
	kvtest.Put(t, clone, "x", "b", "clone")
	kvtest.Expect(t, kvtest.Content(t, db, "x", ""), "a=1", "b=original")
	kvtest.Expect(t, kvtest.Content(t, clone, "x", ""), "a=1", "b=clone")
}

func TestCloneOfAClosedDatabaseIsOpen(t *testing.T) {
	db := kv.NewMemory()
	kvtest.Put(t, db, "x", "a", "1")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	kvtest.Expect(t, kvtest.Content(t, db.Clone(), "x", ""), "a=1")
}

// Clones share their state, so that the race detector has something to look
// at when they change it at the same time.
func TestClonesMayBeUsedConcurrently(t *testing.T) {
	db := kv.NewMemory()
	kvtest.Put(t, db, "x", "a", "1")
	var wg sync.WaitGroup
	for range 4 {
		clone := db.Clone()
		wg.Go(func() {
			kvtest.Put(t, clone, "x", "b", "2")
			kvtest.Expect(t, kvtest.Content(t, clone, "x", ""), "a=1", "b=2")
		})
	}
	kvtest.Put(t, db, "x", "c", "3")
	wg.Wait()
	kvtest.Expect(t, kvtest.Content(t, db, "x", ""), "a=1", "c=3")
}
