package kv_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/kv/kvtest"
)

func TestBoltBehaves(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.DB {
		db, err := kv.OpenBolt(filepath.Join(t.TempDir(), "catalog.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	})
}

func TestMemoryBehaves(t *testing.T) {
	kvtest.Run(t, func(*testing.T) kv.DB { return kv.NewMemory() })
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
				if got := kvtest.Content(t, db, "x", ""); !slices.Equal(got, want) {
					rt.Fatalf("%s: got %q, want %q", name, got, want)
				}
			}
		}
	})
}
