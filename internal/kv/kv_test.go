package kv_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// forEachDB runs a behaviour test over both implementations.
func forEachDB(t *testing.T, test func(t *testing.T, db kv.DB)) {
	t.Helper()
	t.Run("bolt", func(t *testing.T) {
		db, err := kv.OpenBolt(filepath.Join(t.TempDir(), "catalog.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		test(t, db)
	})
	t.Run("memory", func(t *testing.T) { test(t, kv.NewMemory()) })
}

func put(t *testing.T, db kv.DB, bucket, key, value string) {
	t.Helper()
	err := db.Update(func(tx kv.Tx) error { return tx.Put(bucket, []byte(key), []byte(value)) })
	if err != nil {
		t.Fatalf("put %s/%s: %v", bucket, key, err)
	}
}

// content lists a bucket as key=value, from a key on.
func content(t *testing.T, db kv.DB, bucket, from string) []string {
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

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestRangeIsOrderedAndStartsAtFrom(t *testing.T) {
	forEachDB(t, func(t *testing.T, db kv.DB) {
		for _, k := range []string{"b", "a", "c", "ab"} {
			put(t, db, "x", k, "1")
		}
		put(t, db, "y", "b", "2")
		expect(t, content(t, db, "x", ""), "a=1", "ab=1", "b=1", "c=1")
		expect(t, content(t, db, "x", "aa"), "ab=1", "b=1", "c=1")
		expect(t, content(t, db, "x", "b"), "b=1", "c=1")
		expect(t, content(t, db, "x", "d"))
		expect(t, content(t, db, "none", ""))
	})
}

func TestRangeStopsWhenAsked(t *testing.T) {
	forEachDB(t, func(t *testing.T, db kv.DB) {
		put(t, db, "x", "a", "1")
		put(t, db, "x", "b", "1")
		calls := 0
		err := db.View(func(tx kv.Tx) error {
			tx.Range("x", nil, func(_, _ []byte) bool { calls++; return false })
			return nil
		})
		if err != nil || calls != 1 {
			t.Fatalf("%d calls, error %v; want 1 call", calls, err)
		}
	})
}

func TestUpdateSeesItsOwnChanges(t *testing.T) {
	forEachDB(t, func(t *testing.T, db kv.DB) {
		put(t, db, "x", "a", "1")
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
		expect(t, content(t, db, "x", ""), "b=2")
	})
}

func TestFailedUpdateChangesNothing(t *testing.T) {
	forEachDB(t, func(t *testing.T, db kv.DB) {
		put(t, db, "x", "a", "1")
		errStop := errors.New("stop")
		err := db.Update(func(tx kv.Tx) error {
			_ = tx.Put("x", []byte("a"), []byte("2"))
			_ = tx.Put("y", []byte("a"), []byte("2"))
			return errStop
		})
		if !errors.Is(err, errStop) {
			t.Fatalf("got %v, want the function's own error", err)
		}
		expect(t, content(t, db, "x", ""), "a=1")
		expect(t, content(t, db, "y", ""))
		put(t, db, "x", "b", "3") // and the database is not blocked
	})
}

func TestPanicInUpdateDoesNotBlockTheDatabase(t *testing.T) {
	forEachDB(t, func(t *testing.T, db kv.DB) {
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
		put(t, db, "x", "b", "2")
		expect(t, content(t, db, "x", ""), "b=2")
	})
}

func TestEmptyValueIsNotAbsent(t *testing.T) {
	forEachDB(t, func(t *testing.T, db kv.DB) {
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
	})
}

func TestChangesInAViewAreRefused(t *testing.T) {
	forEachDB(t, func(t *testing.T, db kv.DB) {
		err := db.View(func(tx kv.Tx) error { return tx.Put("x", []byte("a"), nil) })
		if !errors.Is(err, kv.ErrReadOnly) {
			t.Errorf("put: got %v, want ErrReadOnly", err)
		}
		err = db.View(func(tx kv.Tx) error { return tx.Delete("x", []byte("a")) })
		if !errors.Is(err, kv.ErrReadOnly) {
			t.Errorf("delete: got %v, want ErrReadOnly", err)
		}
	})
}

func TestInvalidKeysAreRefused(t *testing.T) {
	cases := map[string]struct {
		bucket string
		key    []byte
	}{
		"no bucket":    {"", []byte("a")},
		"empty key":    {"x", nil},
		"key too long": {"x", bytes.Repeat([]byte("k"), kv.MaxKeyBytes+1)},
	}
	forEachDB(t, func(t *testing.T, db kv.DB) {
		for name, c := range cases {
			err := db.Update(func(tx kv.Tx) error { return tx.Put(c.bucket, c.key, nil) })
			if !errors.Is(err, kv.ErrInvalidKey) {
				t.Errorf("%s: got %v, want ErrInvalidKey", name, err)
			}
		}
		longest := string(bytes.Repeat([]byte("k"), kv.MaxKeyBytes))
		put(t, db, "x", longest, "1")
		expect(t, content(t, db, "x", ""), longest+"=1")
	})
}

func TestClosedDatabaseRefuses(t *testing.T) {
	forEachDB(t, func(t *testing.T, db kv.DB) {
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
	})
}

// A View that began before an Update sees nothing of it. The two run at the
// same time, so that the race detector sees what they share.
func TestViewIsASnapshot(t *testing.T) {
	forEachDB(t, func(t *testing.T, db kv.DB) {
		put(t, db, "x", "a", "old")
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
		put(t, db, "x", "a", "new")
		close(committed)
		wg.Wait()
		expect(t, content(t, db, "x", ""), "a=new")
	})
}

func TestConcurrentUse(t *testing.T) {
	forEachDB(t, func(t *testing.T, db kv.DB) {
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
		if n := len(content(t, db, "x", "")); n != writers*rounds {
			t.Fatalf("%d keys, want %d", n, writers*rounds)
		}
	})
}

func count(tx kv.Tx, bucket string) int {
	n := 0
	tx.Range(bucket, nil, func(_, _ []byte) bool { n++; return true })
	return n
}

// Random transactions, some of which fail, leave both implementations with
// what a plain map holds.
func TestRandomTransactionsEqualAMap(t *testing.T) {
	errRollback := errors.New("rollback")
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		boltDB, err := kv.OpenBolt(filepath.Join(dir, "db"))
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = boltDB.Close() }()
		dbs := map[string]kv.DB{"bolt": boltDB, "memory": kv.NewMemory()}
		model := map[string]string{}
		for range rapid.IntRange(1, 6).Draw(rt, "transactions") {
			next := maps.Clone(model)
			type change struct {
				key, value string
				remove     bool
			}
			var changes []change
			for range rapid.IntRange(0, 5).Draw(rt, "changes") {
				c := change{
					key:    rapid.StringMatching("[a-d]{1,2}").Draw(rt, "key"),
					value:  rapid.StringN(0, 8, 16).Draw(rt, "value"),
					remove: rapid.Bool().Draw(rt, "remove"),
				}
				changes = append(changes, c)
				if c.remove {
					delete(next, c.key)
				} else {
					next[c.key] = c.value
				}
			}
			fail := rapid.Bool().Draw(rt, "fail")
			if !fail {
				model = next
			}
			for name, db := range dbs {
				err := db.Update(func(tx kv.Tx) error {
					for _, c := range changes {
						var err error
						if c.remove {
							err = tx.Delete("x", []byte(c.key))
						} else {
							err = tx.Put("x", []byte(c.key), []byte(c.value))
						}
						if err != nil {
							return err
						}
					}
					if fail {
						return errRollback
					}
					return nil
				})
				if (err != nil) != fail {
					rt.Fatalf("%s: update returned %v, fail %v", name, err, fail)
				}
				want := []string{}
				for _, k := range slices.Sorted(maps.Keys(model)) {
					want = append(want, k+"="+model[k])
				}
				if got := content(t, db, "x", ""); !slices.Equal(got, want) {
					rt.Fatalf("%s: got %q, want %q", name, got, want)
				}
			}
		}
	})
}
