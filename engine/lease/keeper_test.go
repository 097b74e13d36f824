package lease

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
)

// manual is a Clock that a test advances.
type manual struct{ *clock.Manual }

var epoch = time.Unix(0, 0)

func (m manual) Uptime() time.Duration { return m.Now().Sub(epoch) }

// memory is a Store that can be away.
type memory struct {
	mu     sync.Mutex // guards the fields below
	record Record
	writes int
	away   bool
}

var errAway = errors.New("away")

func (m *memory) Get(context.Context) (Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return Record{}, errAway
	}
	return m.record, nil
}

func (m *memory) Put(_ context.Context, holder, version string) (Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.away:
		return Record{}, errAway
	case m.record.Version != version:
		return Record{}, ErrConflict
	}
	m.writes++
	m.record = Record{Holder: holder, Version: strconv.Itoa(m.writes)}
	return m.record, nil
}

func (m *memory) setAway(away bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = away
}

// rig is a Keeper that runs.
type rig struct {
	*Keeper
	store *memory
	clock manual
	ended chan error
	stop  context.CancelFunc
}

func start(t *testing.T, store *memory) *rig {
	t.Helper()
	r := &rig{store: store, clock: manual{clock.NewManual(epoch)}, ended: make(chan error, 1)}
	r.Keeper = NewKeeper(store, "me", r.clock, nil)
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	go func() { r.ended <- r.Run(ctx) }()
	t.Cleanup(cancel)
	return r
}

// pass lets time go by in the steps in which the keeper waits.
func (r *rig) pass(d time.Duration) {
	for end := r.clock.Uptime() + d; r.clock.Uptime() < end; {
		r.clock.WaitForTimers(1)
		next, _ := r.clock.Next()
		r.clock.Advance(min(next, end-r.clock.Uptime()))
	}
	r.clock.WaitForTimers(1)
}

func TestHolderIsValidWhileItRenews(t *testing.T) {
	r := start(t, &memory{record: Record{Version: "0"}})
	if err := r.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.pass(time.Hour)
	if !r.Valid() {
		t.Error("not valid although every renewal succeeded")
	}
	if n := r.store.writes; n < 360 || n > 362 {
		t.Errorf("%d renewals in an hour, want one in 10 s", n)
	}
}

func TestHolderStopsBeforeOthersMayStartAndGoesOn(t *testing.T) {
	r := start(t, &memory{record: Record{Version: "0"}})
	if err := r.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.clock.WaitForTimers(1)
	r.store.setAway(true)
	r.pass(Validity - time.Second)
	if !r.Valid() {
		t.Error("not valid any more before its time")
	}
	r.pass(time.Second)
	if r.Valid() {
		t.Fatal("valid 30 s after the start of the last renewal")
	}
	r.store.setAway(false)
	r.pass(retryEvery)
	if err := r.Await(t.Context()); err != nil {
		t.Errorf("the lease is still its own: %v", err)
	}
}

func TestHolderEndsWhenTakenOver(t *testing.T) {
	r := start(t, &memory{record: Record{Version: "0"}})
	if err := r.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.clock.WaitForTimers(1)
	r.store.mu.Lock()
	r.store.record = Record{Holder: "other", Version: "x"}
	r.store.mu.Unlock()
	r.clock.Advance(RenewEvery)
	if err := <-r.ended; !errors.Is(err, ErrLost) {
		t.Fatalf("Run: %v, want ErrLost", err)
	}
	if err := r.Await(t.Context()); !errors.Is(err, ErrLost) || r.Valid() {
		t.Errorf("Await: %v, valid %v; want ErrLost", err, r.Valid())
	}
}

func TestContenderWaits(t *testing.T) {
	r := start(t, &memory{record: Record{Holder: "other", Version: "0"}})
	r.clock.WaitForTimers(1)
	r.pass(Takeover - time.Second)
	if r.Valid() || r.store.record.Holder != "other" {
		t.Fatal("took the lease over before its time")
	}
	r.pass(time.Second)
	if err := r.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestRestartInTheSamePodAndRelease(t *testing.T) {
	store := &memory{record: Record{Holder: "me", Version: "0"}}
	r := start(t, store)
	if err := r.Await(t.Context()); err != nil { // no time has passed
		t.Fatal(err)
	}
	r.stop()
	if err := <-r.ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := r.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if store.record.Holder != "" || r.Valid() {
		t.Errorf("after the release: %+v, valid %v", store.record, r.Valid())
	}
	next := start(t, store)
	if err := next.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestBootRises(t *testing.T) {
	var c Boot
	before := c.Uptime()
	<-c.NewTimer(time.Millisecond).C()
	if after := c.Uptime(); after-before < time.Millisecond {
		t.Errorf("rose by %v in a millisecond", after-before)
	}
}
