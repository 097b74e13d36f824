package objectdb_test

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/lockstep-csi/lockstep/controller/objectdb"
	"github.com/lockstep-csi/lockstep/internal/kv/kvtest"
)

const (
	firstSlot    = "lockstep-catalog-000000"
	commitObject = "lockstep-catalog-commit"
)

// running is a database whose Run is going on.
type running struct {
	*objectdb.DB
	maps  typedcorev1.ConfigMapInterface
	edits chan string
	ended chan error
}

// run opens a database with one key, does what comes before Run, and runs it.
func run(t *testing.T, before ...func(typedcorev1.ConfigMapInterface)) *running {
	t.Helper()
	r := &running{maps: freshMaps(t), edits: make(chan string, 16), ended: make(chan error, 1)}
	db, err := objectdb.Open(t.Context(), objectdb.Config{Maps: r.maps, OnEdit: func(name string) { r.edits <- name }})
	if err != nil {
		t.Fatal(err)
	}
	r.DB = db
	kvtest.Put(t, db, "x", "a", "1")
	for _, f := range before {
		f(r.maps)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { r.ended <- db.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-r.ended; err == nil {
			t.Error("Run ended without a reason")
		}
		db.Close()
	})
	return r
}

func (r *running) expectEdit(t *testing.T, name string) {
	t.Helper()
	select {
	case got := <-r.edits:
		if got != name {
			t.Fatalf("edit of %s found, want %s", got, name)
		}
	case err := <-r.ended:
		t.Fatalf("Run ended: %v", err)
	}
}

func (r *running) expectEnd(t *testing.T, want error) {
	t.Helper()
	err := <-r.ended
	if !errors.Is(err, want) {
		t.Fatalf("Run ended with %v, want %v", err, want)
	}
	r.ended <- err
}

func edit(t *testing.T, maps typedcorev1.ConfigMapInterface, name string, change func(*corev1.ConfigMap)) {
	t.Helper()
	m, err := maps.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	change(m)
	if _, err := maps.Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func setValue(value string) func(*corev1.ConfigMap) {
	return func(m *corev1.ConfigMap) { m.Data["value"] = value }
}

func drop(t *testing.T, maps typedcorev1.ConfigMapInterface, name string) {
	t.Helper()
	if err := maps.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestEditWhileRunningIsSaidAndUndone(t *testing.T) {
	cases := map[string]func(t *testing.T, r *running){
		"edited":  func(t *testing.T, r *running) { edit(t, r.maps, firstSlot, setValue("edited")) },
		"deleted": func(t *testing.T, r *running) { drop(t, r.maps, firstSlot) },
		"edited, checksum too": func(t *testing.T, r *running) {
			edit(t, r.maps, firstSlot, func(m *corev1.ConfigMap) {
				m.Data["value"] = "edited"
				delete(m.Annotations, "lockstep.dev/checksum")
			})
		},
	}
	for name, harm := range cases {
		t.Run(name, func(t *testing.T) {
			r := run(t)
			harm(t, r)
			r.expectEdit(t, firstSlot)
			kvtest.Put(t, r, "x", "b", "2") // waits until the edit is undone
			m, err := r.maps.Get(t.Context(), firstSlot, metav1.GetOptions{})
			if err != nil || m.Data["value"] != "1" {
				t.Fatalf("%v, value %q; want the controller's", err, m.Data["value"])
			}
			kvtest.Expect(t, kvtest.Content(t, open(t, r.maps), "x", ""), "a=1", "b=2")
		})
	}
}

func TestDeletionBeforeTheWatchBeganIsSaidAndUndone(t *testing.T) {
	r := run(t, func(maps typedcorev1.ConfigMapInterface) { drop(t, maps, firstSlot) })
	r.expectEdit(t, firstSlot)
	kvtest.Put(t, r, "x", "b", "2")
	kvtest.Expect(t, kvtest.Content(t, open(t, r.maps), "x", ""), "a=1", "b=2")
}

// An edit that nobody has seen yet does not survive a commit to the same key.
func TestEditThatACommitOvertakes(t *testing.T) {
	maps := freshMaps(t)
	db := open(t, maps)
	kvtest.Put(t, db, "x", "a", "1")
	edit(t, maps, firstSlot, setValue("edited"))
	kvtest.Put(t, db, "x", "a", "2")
	kvtest.Expect(t, kvtest.Content(t, open(t, maps), "x", ""), "a=2")
}

func TestOwnWritesAreNoEdits(t *testing.T) {
	r := run(t)
	for _, value := range []string{"2", "3", "4"} {
		kvtest.Put(t, r, "x", "a", value)
		kvtest.Put(t, r, "x", value, value)
	}
	// A label is nobody's business; the edit behind it is seen in order.
	edit(t, r.maps, firstSlot, func(m *corev1.ConfigMap) { m.Labels["team"] = "storage" })
	edit(t, r.maps, "lockstep-catalog-000001", setValue("edited"))
	r.expectEdit(t, "lockstep-catalog-000001")
	if len(r.edits) != 0 {
		t.Errorf("edit of %s found", <-r.edits)
	}
}

func TestRunEndsWhenTakenOver(t *testing.T) {
	r := run(t)
	open(t, r.maps)
	r.expectEnd(t, objectdb.ErrFenced)
}

func TestRunEndsWhenTheCommitObjectIsHarmed(t *testing.T) {
	t.Run("deleted", func(t *testing.T) {
		r := run(t)
		drop(t, r.maps, commitObject)
		r.expectEnd(t, objectdb.ErrFenced)
	})
	t.Run("edited", func(t *testing.T) {
		r := run(t)
		edit(t, r.maps, commitObject, func(m *corev1.ConfigMap) { m.Data["changes"] = "[]" })
		r.expectEnd(t, objectdb.ErrFenced)
	})
}

func TestEditWhileClosedIsRefused(t *testing.T) {
	cases := map[string]func(t *testing.T, maps typedcorev1.ConfigMapInterface){
		"value edited":   func(t *testing.T, m typedcorev1.ConfigMapInterface) { edit(t, m, firstSlot, setValue("edited")) },
		"entry deleted":  func(t *testing.T, m typedcorev1.ConfigMapInterface) { drop(t, m, firstSlot) },
		"commit deleted": func(t *testing.T, m typedcorev1.ConfigMapInterface) { drop(t, m, commitObject) },
		"commit edited": func(t *testing.T, m typedcorev1.ConfigMapInterface) {
			edit(t, m, commitObject, func(m *corev1.ConfigMap) { m.Data["slots"] = "1" })
		},
		"sequence edited": func(t *testing.T, m typedcorev1.ConfigMapInterface) {
			edit(t, m, firstSlot, func(m *corev1.ConfigMap) { m.Annotations["lockstep.dev/sequence"] = "7" })
		},
		"key twice": func(t *testing.T, m typedcorev1.ConfigMapInterface) {
			edit(t, m, firstSlot, func(m *corev1.ConfigMap) {
				m.Data["key"] = "b"
				delete(m.Annotations, "lockstep.dev/checksum")
			})
		},
		"stranger": func(t *testing.T, m typedcorev1.ConfigMapInterface) {
			stranger := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "stranger", Labels: map[string]string{
				"lockstep.dev/catalog": "entry", "lockstep.dev/database": "lockstep-catalog",
			}}}
			if _, err := m.Create(t.Context(), stranger, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, harm := range cases {
		t.Run(name, func(t *testing.T) {
			maps := freshMaps(t)
			db := open(t, maps)
			for _, key := range []string{"a", "b", "c"} {
				kvtest.Put(t, db, "x", key, "1")
			}
			db.Close()
			harm(t, maps)
			_, err := objectdb.Open(t.Context(), objectdb.Config{Maps: maps})
			if !errors.Is(err, objectdb.ErrDamaged) {
				t.Fatalf("got %v, want ErrDamaged", err)
			}
		})
	}
}

func TestEditThatIsMeantIsTaken(t *testing.T) {
	maps := freshMaps(t)
	db := open(t, maps)
	kvtest.Put(t, db, "x", "a", "1")
	kvtest.Put(t, db, "x", "b", "1")
	db.Close()
	edit(t, maps, firstSlot, func(m *corev1.ConfigMap) {
		m.Data["value"] = "meant"
		delete(m.Annotations, "lockstep.dev/checksum")
	})
	kvtest.Expect(t, kvtest.Content(t, open(t, maps), "x", ""), "a=meant", "b=1")
}
