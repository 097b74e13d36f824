package objectdb_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/lockstep-csi/lockstep/controller/objectdb"
	"github.com/lockstep-csi/lockstep/internal/apitest"
	"github.com/lockstep-csi/lockstep/internal/kv"
)

// step is one transaction of the script: key to value, "" to delete it.
type step map[string]string

// script makes, changes, deletes and makes keys again, also several at once.
var script = []step{
	{"a": "1", "b": "1"},
	{"a": "2"},
	{"b": "", "c": "1"},
	{"a": "", "b": "3"},
	{"a": "4", "c": "4", "d": "4"},
}

func (s step) run(db kv.DB) error {
	return db.Update(func(tx kv.Tx) error {
		for _, k := range slices.Sorted(maps.Keys(s)) {
			var err error
			if s[k] == "" {
				err = tx.Delete("x", []byte(k))
			} else {
				err = tx.Put("x", []byte(k), []byte(s[k]))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (s step) apply(to map[string]string) map[string]string {
	next := maps.Clone(to)
	for k, v := range s {
		if v == "" {
			delete(next, k)
		} else {
			next[k] = v
		}
	}
	return next
}

func contentOf(t *testing.T, db kv.DB) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := db.View(func(tx kv.Tx) error {
		tx.Range("x", nil, func(k, v []byte) bool { found[string(k)] = string(v); return true })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// crash is one run of the script whose k-th request is hit, and which is cut
// off after so many more, if any.
type crash struct {
	at   int
	kind apitest.Kind
	dead int
}

// A process that is cut off at any request, for ever, leaves the acknowledged
// transactions and all or nothing of the one that it was at.
func TestCutOffAtEveryRequest(t *testing.T) {
	forEveryRequest(t, []int{1, 2, 3}, func(t *testing.T, w *world) {
		acknowledged := map[string]string{}
		maybe := acknowledged
		db, err := w.open(t, patience)
		for i := 0; err == nil && i < len(script); i++ {
			maybe = script[i].apply(acknowledged)
			if err = script[i].run(db); err == nil {
				acknowledged = maybe
			}
		}
		// Nothing of the process that is cut off is closed.
		w.expectOneOf(t, acknowledged, maybe)
	})
}

// One request that breaks, and no more, is not noticed.
func TestOneBrokenRequest(t *testing.T) {
	forEveryRequest(t, []int{0}, func(t *testing.T, w *world) {
		content := map[string]string{}
		// What it tries again it does with success: it is to have the time for it.
		db, err := w.open(t, time.Minute)
		if err != nil { // as the role does, which is started again
			db, err = w.open(t, time.Minute)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for i, s := range script {
			if err := s.run(db); err != nil {
				t.Fatalf("transaction %d: %v", i, err)
			}
			content = s.apply(content)
			if got := contentOf(t, db); !maps.Equal(got, content) {
				t.Fatalf("after transaction %d: %v, want %v", i, got, content)
			}
			if i == 2 {
				w.deliver(t)
			}
		}
		w.deliver(t)
		w.expectOneOf(t, content, content)
	})
}

// A process that was taken over, with a request still on its way, changes
// nothing any more and learns of it.
func TestTakenOverAtEveryRequest(t *testing.T) {
	forEveryRequest(t, []int{1}, func(t *testing.T, w *world) {
		content, maybe := map[string]string{}, map[string]string{}
		old, err := w.open(t, patience)
		for i := 0; err == nil && i < len(script); i++ {
			maybe = script[i].apply(content)
			if err = script[i].run(old); err == nil {
				content = maybe
			}
		}
		db := open(t, w.server.Client().CoreV1().ConfigMaps(w.namespace))
		content = expectEither(t, contentOf(t, db), content, maybe)
		for _, next := range []step{{"a": "new", "b": ""}, {"b": "new"}, {"c": "", "d": "new"}} {
			if err := next.run(db); err != nil {
				t.Fatal(err)
			}
			content = next.apply(content)
		}
		w.deliver(t)
		w.fault.Break(0, 0, 0) // the old process can reach the server again
		if old != nil {
			if err := (step{"a": "old"}).run(old); !errors.Is(err, objectdb.ErrFenced) && !errors.Is(err, kv.ErrPoisoned) {
				t.Fatalf("old process: %v, want ErrFenced or ErrPoisoned", err)
			}
		}
		w.expectOneOf(t, content, content)
	})
}

// forEveryRequest runs a test with each request of the script hit in each way,
// and the process cut off so many requests later.
func forEveryRequest(t *testing.T, deadAfter []int, test func(t *testing.T, w *world)) {
	s := apitest.Start(t)
	requests := countRequests(t, s)
	for _, kind := range []apitest.Kind{apitest.Unsent, apitest.Unanswered, apitest.Late} {
		for at := 1; at <= requests; at++ {
			for _, after := range deadAfter {
				t.Run(fmt.Sprintf("%v-%d-%d", kind, at, after), func(t *testing.T) {
					c := crash{at: at, kind: kind}
					if after > 0 {
						c.dead = at + after
					}
					test(t, newWorld(t, s, c))
				})
			}
		}
	}
}

func countRequests(t *testing.T, s *apitest.Server) int {
	w := newWorld(t, s, crash{})
	db, err := w.open(t, time.Minute)
	for _, s := range script {
		err = errors.Join(err, s.run(db))
	}
	if err != nil {
		t.Fatal(err)
	}
	return w.fault.Count()
}

// world is a namespace, the client that is hit, and one that is not.
type world struct {
	server    *apitest.Server
	namespace string
	client    kubernetes.Interface
	fault     *apitest.Fault
}

func newWorld(t *testing.T, s *apitest.Server, c crash) *world {
	t.Helper()
	client, fault, err := s.Fault()
	if err != nil {
		t.Fatal(err)
	}
	fault.Break(c.at, c.kind, c.dead)
	return &world{server: s, namespace: s.Namespace(t), client: client, fault: fault}
}

func (w *world) open(t *testing.T, patience time.Duration) (*objectdb.DB, error) {
	return objectdb.Open(t.Context(), objectdb.Config{
		Maps: w.client.CoreV1().ConfigMaps(w.namespace), Patience: patience,
	})
}

func (w *world) deliver(t *testing.T) {
	t.Helper()
	if err := w.fault.Deliver(); err != nil {
		t.Fatal(err)
	}
}

// expectOneOf opens the database as a new process does, and again after the
// requests of the old one that were late have come, and once more after it was
// used.
func (w *world) expectOneOf(t *testing.T, a, b map[string]string) {
	t.Helper()
	sound := w.server.Client().CoreV1().ConfigMaps(w.namespace)
	db := open(t, sound)
	found := expectEither(t, contentOf(t, db), a, b)
	w.deliver(t)
	last := step{"a": "last", "d": "", "e": "last"}
	if err := last.run(db); err != nil {
		t.Fatal(err)
	}
	w.deliver(t)
	found = last.apply(found)
	if got := contentOf(t, open(t, sound)); !maps.Equal(got, found) {
		t.Fatalf("after another transaction: %v, want %v", got, found)
	}
}

// patience is long enough for one request to be tried again, and short because what
// is cut off for ever tries in vain.
const patience = 200 * time.Millisecond

func expectEither(t *testing.T, found, a, b map[string]string) map[string]string {
	t.Helper()
	if !maps.Equal(found, a) && !maps.Equal(found, b) {
		t.Fatalf("found %v, want %v or %v", found, a, b)
	}
	return found
}
