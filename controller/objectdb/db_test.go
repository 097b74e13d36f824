package objectdb_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"pgregory.net/rapid"

	"github.com/lockstep-csi/lockstep/controller/objectdb"
	"github.com/lockstep-csi/lockstep/internal/apitest"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/kv/kvtest"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

// open opens the database of a namespace, closed when the test ends.
func open(t *testing.T, maps typedcorev1.ConfigMapInterface) *objectdb.DB {
	t.Helper()
	db, err := objectdb.Open(t.Context(), objectdb.Config{Maps: maps})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func freshMaps(t *testing.T) typedcorev1.ConfigMapInterface {
	s := apitest.Start(t)
	return s.Client().CoreV1().ConfigMaps(s.Namespace(t))
}

func remove(db kv.DB, bucket, key string) error {
	return db.Update(func(tx kv.Tx) error { return tx.Delete(bucket, []byte(key)) })
}

func TestBehaves(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.DB { return open(t, freshMaps(t)) })
}

func TestContentOutlivesTheProcess(t *testing.T) {
	maps := freshMaps(t)
	db := open(t, maps)
	kvtest.Put(t, db, "text", "a", `{"version":1}`)
	kvtest.Put(t, db, "text", "b", "")
	kvtest.Put(t, db, "binary", "\x00\xff", "\xfe\x01")
	kvtest.Put(t, db, "text", "gone", "x")
	if err := remove(db, "text", "gone"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	again := open(t, maps)
	kvtest.Expect(t, kvtest.Content(t, again, "text", ""), `a={"version":1}`, "b=")
	kvtest.Expect(t, kvtest.Content(t, again, "binary", ""), "\x00\xff=\xfe\x01")
}

// What a person sees with kubectl.
func TestEntriesCanBeRead(t *testing.T) {
	maps := freshMaps(t)
	db := open(t, maps)
	kvtest.Put(t, db, "csi-volumes", "0f", `{"version":1}`)
	kvtest.Put(t, db, "volumes", "\x0f\xa0", `{"version":2}`)
	list, err := maps.List(t.Context(), metav1.ListOptions{LabelSelector: "lockstep.dev/catalog=entry,lockstep.dev/bucket=csi-volumes"})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%v, %d entries; want one", err, len(list.Items))
	}
	if data := list.Items[0].Data; data["key"] != "0f" || data["value"] != `{"version":1}` {
		t.Errorf("entry has %v", data)
	}
	list, err = maps.List(t.Context(), metav1.ListOptions{LabelSelector: "lockstep.dev/bucket=volumes"})
	if err != nil || len(list.Items) != 1 || list.Items[0].Data["keyHex"] != "0fa0" {
		t.Errorf("%v, entries %v; want the key in hexadecimal", err, list.Items)
	}
}

func TestSlotsAreUsedAgain(t *testing.T) {
	maps := freshMaps(t)
	db := open(t, maps)
	for i := range 5 {
		kvtest.Put(t, db, "x", fmt.Sprint(i), "1")
		if err := remove(db, "x", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	list, err := maps.List(t.Context(), metav1.ListOptions{LabelSelector: "lockstep.dev/catalog=entry"})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%v, %d objects for one key at a time; want one", err, len(list.Items))
	}
}

func TestDatabasesOfTwoNamesShareNothing(t *testing.T) {
	maps := freshMaps(t)
	a, err := objectdb.Open(t.Context(), objectdb.Config{Maps: maps, Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	// Its name begins as the other's objects do.
	b, err := objectdb.Open(t.Context(), objectdb.Config{Maps: maps, Name: "a-000000"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	kvtest.Put(t, a, "x", "k", "a")
	kvtest.Put(t, b, "x", "k", "b")
	kvtest.Expect(t, kvtest.Content(t, a, "x", ""), "k=a")
	kvtest.Expect(t, kvtest.Content(t, b, "x", ""), "k=b")
}

func TestNoMoreThanAnObjectHolds(t *testing.T) {
	maps := freshMaps(t)
	db := open(t, maps)
	kvtest.Put(t, db, "x", "a", "1")
	err := db.Update(func(tx kv.Tx) error { return tx.Put("x", []byte("a"), []byte(strings.Repeat("v", 1<<20))) })
	if !errors.Is(err, objectdb.ErrTooBig) {
		t.Fatalf("got %v, want ErrTooBig", err)
	}
	kvtest.Expect(t, kvtest.Content(t, db, "x", ""), "a=1")
	// What is let through, the server takes; quotes are escaped in the commit.
	big := strings.Repeat("v", 900<<10)
	kvtest.Put(t, db, "x", "big", big)
	db.Close()
	kvtest.Expect(t, kvtest.Content(t, open(t, maps), "x", ""), "a=1", "big="+big)
}

func TestTheLastToOpenHasIt(t *testing.T) {
	maps := freshMaps(t)
	first := open(t, maps)
	kvtest.Put(t, first, "x", "a", "1")
	second := open(t, maps)
	err := first.Update(func(tx kv.Tx) error { return tx.Put("x", []byte("a"), []byte("2")) })
	if !errors.Is(err, objectdb.ErrFenced) {
		t.Fatalf("got %v, want ErrFenced", err)
	}
	if err := first.View(func(kv.Tx) error { return nil }); !errors.Is(err, objectdb.ErrFenced) {
		t.Errorf("view after it: %v, want ErrFenced", err)
	}
	kvtest.Put(t, second, "x", "b", "2")
	kvtest.Expect(t, kvtest.Content(t, second, "x", ""), "a=1", "b=2")
}

func TestNothingIsWrittenForNothing(t *testing.T) {
	s := apitest.Start(t)
	client, fault, err := s.Fault()
	if err != nil {
		t.Fatal(err)
	}
	db := open(t, client.CoreV1().ConfigMaps(s.Namespace(t)))
	kvtest.Put(t, db, "x", "a", "1")
	fault.Break(0, 0, 0)
	kvtest.Put(t, db, "x", "a", "1")
	if err := remove(db, "x", "none"); err != nil {
		t.Fatal(err)
	}
	if n := fault.Count(); n != 0 {
		t.Errorf("%d requests, want none", n)
	}
	kvtest.Put(t, db, "x", "a", "2")
	if n := fault.Count(); n != 2 {
		t.Errorf("%d requests for one change, want the commit and the entry", n)
	}
}

// Random transactions, with the database closed and opened between them, leave
// what a plain map holds.
func TestRandomTransactionsEqualAMap(t *testing.T) {
	objects := freshMaps(t)
	databases := 0
	rapid.Check(t, func(rt *rapid.T) {
		databases++
		config := objectdb.Config{Maps: objects, Name: fmt.Sprintf("db%d", databases)}
		db, err := objectdb.Open(t.Context(), config)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { db.Close() }()
		model := map[string]string{}
		for range rapid.IntRange(1, 4).Draw(rt, "transactions") {
			changes := rapid.MapOfN(rapid.StringMatching("[a-d]"), rapid.StringN(0, 3, 8), 0, 4).Draw(rt, "changes")
			err := db.Update(func(tx kv.Tx) error {
				for k, v := range changes {
					var err error
					if len(v)%2 == 1 {
						err = tx.Delete("x", []byte(k))
						delete(model, k)
					} else {
						err = tx.Put("x", []byte(k), []byte(v))
						model[k] = v
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				rt.Fatal(err)
			}
			if rapid.Bool().Draw(rt, "reopen") {
				db.Close()
				if db, err = objectdb.Open(t.Context(), config); err != nil {
					rt.Fatal(err)
				}
			}
			want := []string{}
			for _, k := range slices.Sorted(maps.Keys(model)) {
				want = append(want, k+"="+model[k])
			}
			if got := kvtest.Content(t, db, "x", ""); !slices.Equal(got, want) {
				rt.Fatalf("got %q, want %q", got, want)
			}
		}
	})
}
