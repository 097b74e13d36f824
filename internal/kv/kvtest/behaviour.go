// Package kvtest has the tests that every implementation of kv.DB passes.
package kvtest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// Run tests that what open returns behaves as kv.DB says. Each call of open
// returns an empty database, and closes it when its test ends.
func Run(t *testing.T, open func(t *testing.T) kv.DB) {
	tests := []struct {
		name string
		test func(t *testing.T, open func(*testing.T) kv.DB)
	}{
		{"RangeIsOrderedAndStartsAtFrom", rangeIsOrderedAndStartsAtFrom},
		{"RangeStopsWhenAsked", rangeStopsWhenAsked},
		{"BucketsAreListed", bucketsAreListed},
		{"UpdateSeesItsOwnChanges", updateSeesItsOwnChanges},
		{"FailedUpdateChangesNothing", failedUpdateChangesNothing},
		{"PanicInUpdateDoesNotBlockTheDatabase", panicInUpdateDoesNotBlockTheDatabase},
		{"EmptyValueIsNotAbsent", emptyValueIsNotAbsent},
		{"ChangesInAViewAreRefused", changesInAViewAreRefused},
		{"InvalidKeysAreRefused", invalidKeysAreRefused},
		{"ClosedDatabaseRefuses", closedDatabaseRefuses},
		{"ViewIsASnapshot", viewIsASnapshot},
		{"ConcurrentUse", concurrentUse},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) { c.test(t, open) })
	}
}

func bucketsAreListed(t *testing.T, open func(*testing.T) kv.DB) {
	db := open(t)
	Put(t, db, "two", "key", "value")
	Put(t, db, "one", "key", "value")
	err := db.Update(func(tx kv.Tx) error {
		if err := tx.Delete("one", []byte("key")); err != nil {
			return err
		}
		if err := tx.Put("three", []byte("key"), nil); err != nil {
			return err
		}
		if got, want := tx.Buckets(), []string{"one", "three", "two"}; !slices.Equal(got, want) {
			t.Errorf("in the update: got %q, want %q", got, want)
		}
		return errors.New("undo")
	})
	if err == nil {
		t.Fatal("the update was not undone")
	}
	err = db.View(func(tx kv.Tx) error {
		if got, want := tx.Buckets(), []string{"one", "two"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Put stores one value.
func Put(t *testing.T, db kv.DB, bucket, key, value string) {
	t.Helper()
	err := db.Update(func(tx kv.Tx) error { return tx.Put(bucket, []byte(key), []byte(value)) })
	if err != nil {
		t.Fatalf("put %s/%s: %v", bucket, key, err)
	}
}

// Content lists a bucket as key=value, from a key on.
func Content(t *testing.T, db kv.DB, bucket, from string) []string {
	t.Helper()
	list := []string{}
	err := db.View(func(tx kv.Tx) error {
		tx.Range(bucket, []byte(from), func(k, v []byte) bool {
			list = append(list, fmt.Sprintf("%s=%s", k, v))
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatalf("range over %s: %v", bucket, err)
	}
	return list
}

// Expect compares a list that Content returned.
func Expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func rangeIsOrderedAndStartsAtFrom(t *testing.T, open func(*testing.T) kv.DB) {
	db := open(t)
	for _, k := range []string{"b", "a", "c", "ab"} {
		Put(t, db, "x", k, "1")
	}
	Put(t, db, "y", "b", "2")
	Expect(t, Content(t, db, "x", ""), "a=1", "ab=1", "b=1", "c=1")
	Expect(t, Content(t, db, "x", "aa"), "ab=1", "b=1", "c=1")
	Expect(t, Content(t, db, "x", "b"), "b=1", "c=1")
	Expect(t, Content(t, db, "x", "d"))
	Expect(t, Content(t, db, "none", ""))
}

func rangeStopsWhenAsked(t *testing.T, open func(*testing.T) kv.DB) {
	db := open(t)
	Put(t, db, "x", "a", "1")
	Put(t, db, "x", "b", "1")
	calls := 0
	err := db.View(func(tx kv.Tx) error {
		tx.Range("x", nil, func(_, _ []byte) bool { calls++; return false })
		return nil
	})
	if err != nil || calls != 1 {
		t.Fatalf("%d calls, error %v; want 1 call", calls, err)
	}
}

func updateSeesItsOwnChanges(t *testing.T, open func(*testing.T) kv.DB) {
	db := open(t)
	Put(t, db, "x", "a", "1")
	err := db.Update(func(tx kv.Tx) error {
		value := []byte("2")
		if err := tx.Put("x", []byte("b"), value); err != nil {
			return err
		}
		value[0] = '!' // Put must have copied it
		if err := tx.Delete("x", []byte("a")); err != nil {
			return err
		}
		if got := tx.Get("x", []byte("b")); string(got) != "2" {
			t.Errorf("got %q, want what was put", got)
		}
		if got := tx.Get("x", []byte("a")); got != nil {
			t.Errorf("deleted key has value %q", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	Expect(t, Content(t, db, "x", ""), "b=2")
}

func failedUpdateChangesNothing(t *testing.T, open func(*testing.T) kv.DB) {
	db := open(t)
	Put(t, db, "x", "a", "1")
	errStop := errors.New("stop")
	err := db.Update(func(tx kv.Tx) error {
		_ = tx.Put("x", []byte("a"), []byte("2"))
		_ = tx.Put("y", []byte("a"), []byte("2"))
		return errStop
	})
	if !errors.Is(err, errStop) {
		t.Fatalf("got %v, want the function's own error", err)
	}
	Expect(t, Content(t, db, "x", ""), "a=1")
	Expect(t, Content(t, db, "y", ""))
	Put(t, db, "x", "b", "3") // and the database is not blocked
}

func panicInUpdateDoesNotBlockTheDatabase(t *testing.T, open func(*testing.T) kv.DB) {
	db := open(t)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("panic was swallowed")
			}
		}()
		_ = db.Update(func(tx kv.Tx) error {
			_ = tx.Put("x", []byte("a"), []byte("1"))
			panic("bug in caller")
		})
	}()
	Put(t, db, "x", "b", "2")
	Expect(t, Content(t, db, "x", ""), "b=2")
}

func emptyValueIsNotAbsent(t *testing.T, open func(*testing.T) kv.DB) {
	db := open(t)
	check := func(tx kv.Tx) error {
		if got := tx.Get("x", []byte("a")); got == nil || len(got) != 0 {
			t.Errorf("got %#v, want empty and not nil", got)
		}
		return nil
	}
	err := db.Update(func(tx kv.Tx) error {
		if err := tx.Put("x", []byte("a"), nil); err != nil {
			return err
		}
		return check(tx)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.View(check); err != nil {
		t.Fatal(err)
	}
}

func changesInAViewAreRefused(t *testing.T, open func(*testing.T) kv.DB) {
	db := open(t)
	err := db.View(func(tx kv.Tx) error { return tx.Put("x", []byte("a"), nil) })
	if !errors.Is(err, kv.ErrReadOnly) {
		t.Errorf("put: got %v, want ErrReadOnly", err)
	}
	err = db.View(func(tx kv.Tx) error { return tx.Delete("x", []byte("a")) })
	if !errors.Is(err, kv.ErrReadOnly) {
		t.Errorf("delete: got %v, want ErrReadOnly", err)
	}
}

func invalidKeysAreRefused(t *testing.T, open func(*testing.T) kv.DB) {
	cases := map[string]struct {
		bucket string
		key    []byte
	}{
		"no bucket":     {"", []byte("a")},
		"empty key":     {"x", nil},
		"key too long":  {"x", bytes.Repeat([]byte("k"), kv.MaxKeyBytes+1)},
		"name too long": {strings.Repeat("x", kv.MaxKeyBytes+1), []byte("a")},
	}
	db := open(t)
	for name, c := range cases {
		err := db.Update(func(tx kv.Tx) error { return tx.Put(c.bucket, c.key, nil) })
		if !errors.Is(err, kv.ErrInvalidKey) {
			t.Errorf("%s: got %v, want ErrInvalidKey", name, err)
		}
	}
	longest := strings.Repeat("k", kv.MaxKeyBytes)
	Put(t, db, longest, longest, "1")
	Expect(t, Content(t, db, longest, ""), longest+"=1")
}

func closedDatabaseRefuses(t *testing.T, open func(*testing.T) kv.DB) {
	db := open(t)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	nothing := func(kv.Tx) error { return nil }
	if err := db.View(nothing); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("view: got %v, want ErrClosed", err)
	}
	if err := db.Update(nothing); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("update: got %v, want ErrClosed", err)
	}
}

// A View that began before an Update sees nothing of it. The two run at the
// same time, so that the race detector sees what they share.
func viewIsASnapshot(t *testing.T, open func(*testing.T) kv.DB) {
	db := open(t)
	Put(t, db, "x", "a", "old")
	began, committed := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = db.View(func(tx kv.Tx) error {
			close(began)
			<-committed
			if got := tx.Get("x", []byte("a")); string(got) != "old" {
				t.Errorf("view sees %q, which was committed after it began", got)
			}
			return nil
		})
	})
	<-began
	Put(t, db, "x", "a", "new")
	close(committed)
	wg.Wait()
	Expect(t, Content(t, db, "x", ""), "a=new")
}

func concurrentUse(t *testing.T, open func(*testing.T) kv.DB) {
	db := open(t)
	const writers, rounds = 4, 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				key := []byte(fmt.Sprintf("%d-%d", w, i))
				err := db.Update(func(tx kv.Tx) error {
					return errors.Join(tx.Put("x", key, key), tx.Put("y", key, key))
				})
				if err != nil {
					t.Error(err)
				}
				_ = db.View(func(tx kv.Tx) error {
					if x, y := count(tx, "x"), count(tx, "y"); x != y {
						t.Errorf("a view saw %d keys in one bucket and %d in the other", x, y)
					}
					return nil
				})
			}
		})
	}
	wg.Wait()
	if n := len(Content(t, db, "x", "")); n != writers*rounds {
		t.Fatalf("%d keys, want %d", n, writers*rounds)
	}
}

func count(tx kv.Tx, bucket string) int {
	n := 0
	tx.Range(bucket, nil, func(_, _ []byte) bool { n++; return true })
	return n
}
