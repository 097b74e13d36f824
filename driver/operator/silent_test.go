package operator

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kevents "k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
)

// A group whose engines run and do not answer, because a disk hangs, is not Ready any
// more once that lasts; what was known of its points stays.
func TestASilentGroupIsNotReady(t *testing.T) {
	c, p, now := newCluster(t), newPlane(), clock.NewManual(testStart.Add(time.Hour))
	p.add(1, c.namespace+"/shop", c.namespace, "data")
	c.make(&v1alpha1.ConsistencyGroup{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	k := &groupKeeper{client: c.Client, fleet: p, catalog: p, events: events{kevents.NewFakeRecorder(100)}, clock: now, log: slog.New(slog.DiscardHandler),
		applied: map[types.NamespacedName]application{}, written: map[types.NamespacedName]time.Time{}, silent: map[types.NamespacedName]time.Time{}}
	look := func() (v1alpha1.ConsistencyGroup, *metav1.Condition, error) {
		t.Helper()
		_, err := k.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: c.namespace, Name: "shop"}})
		g, ok := c.groupResource("shop")
		ready := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.GroupReady)
		if !ok || ready == nil {
			t.Fatalf("the group has no condition: %+v, %v", g.Status, err)
		}
		return g, ready, err
	}
	if _, ready, err := look(); err != nil || ready.Status != metav1.ConditionTrue {
		t.Fatalf("at first: %+v, %v", ready, err)
	}
	p.mute = errors.New("the engine has not answered in time")
	if _, ready, err := look(); err == nil || ready.Status != metav1.ConditionTrue {
		t.Errorf("for a moment: %+v, %v, want it to be tried again", ready, err)
	}
	now.Advance(silenceTolerated)
	g, ready, err := look()
	if err != nil || ready.Status != metav1.ConditionFalse || ready.Reason != reasonSilent || !strings.Contains(ready.Message, p.mute.Error()) {
		t.Errorf("when it lasts: %+v, %v", ready, err)
	}
	if g.Status.NewestPoint == nil || g.Status.NewestPoint.Checkpoint != 12 {
		t.Errorf("what was known of its points: %+v", g.Status.NewestPoint)
	}
	p.mute = nil
	if _, ready, err := look(); err != nil || ready.Status != metav1.ConditionTrue {
		t.Errorf("when it answers again: %+v, %v", ready, err)
	}
}

// When all members of a large group are in trouble at once, there is more to say than the API
// server takes in a condition, and the group is not ready all the same.
func TestAGroupWithMuchTroubleHasAStatus(t *testing.T) {
	c, p := newCluster(t), newPlane()
	for n := range byte(60) {
		p.add(n+1, c.namespace+"/shop", c.namespace, fmt.Sprint("data-", n))
		p.volume(n+1, func(v *fleet.Volume) {
			v.Connected, v.Err = false, errors.New(strings.Repeat("0/100 nodes are available: — ", 30))
		})
	}
	c.make(&v1alpha1.ConsistencyGroup{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	k := &groupKeeper{client: c.Client, fleet: p, catalog: p, events: events{kevents.NewFakeRecorder(100)}, clock: clock.NewManual(testStart.Add(time.Hour)), log: slog.New(slog.DiscardHandler),
		applied: map[types.NamespacedName]application{}, written: map[types.NamespacedName]time.Time{}, silent: map[types.NamespacedName]time.Time{}}
	if _, err := k.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: c.namespace, Name: "shop"}}); err != nil {
		t.Fatal(strings.ToValidUTF8(err.Error()[:min(len(err.Error()), 500)], ""))
	}
	g, _ := c.groupResource("shop")
	ready := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.GroupReady)
	if ready == nil || ready.Status != metav1.ConditionFalse || ready.Reason != reasonEngine || !strings.HasPrefix(ready.Message, "claim data-0: ") || len(g.Status.Members) != 60 {
		t.Errorf("%d members, %+v", len(g.Status.Members), ready)
	}
}

// The same goes for why a recovery has failed, which names each member that stands in its way.
func TestARecoveryWithMuchTroubleEnds(t *testing.T) {
	s := newShop(t)
	r := newRecoverer(t, s.server.Config(), s.plane)
	s.plane.refusing = fmt.Errorf("%s: %w", strings.Repeat("x", 40000), group.ErrNoPoint)
	s.recovery("lost", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "10"})
	for range 5 {
		if done, err := s.step(r, "lost"); err != nil {
			t.Fatal(err.Error()[:min(len(err.Error()), 500)])
		} else if done {
			break
		}
	}
	if st := s.status("lost"); st.Phase != v1alpha1.PhaseFailed || !strings.HasPrefix(st.Message, "xxx") {
		t.Errorf("%s: %d bytes of a message", st.Phase, len(st.Message))
	}
}

// A group that was made by a clock that was ahead has its points in the future only, and its
// resource says so, where the API server takes no length of time below zero.
func TestAGroupOfTheFutureHasAStatus(t *testing.T) {
	c, p := newCluster(t), newPlane()
	p.add(1, c.namespace+"/shop", c.namespace, "data")
	c.make(&v1alpha1.ConsistencyGroup{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	k := &groupKeeper{client: c.Client, fleet: p, catalog: p, events: events{kevents.NewFakeRecorder(100)}, clock: clock.NewManual(testStart.Add(-time.Hour)), log: slog.New(slog.DiscardHandler),
		applied: map[types.NamespacedName]application{}, written: map[types.NamespacedName]time.Time{}, silent: map[types.NamespacedName]time.Time{}}
	if _, err := k.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: c.namespace, Name: "shop"}}); err != nil {
		t.Fatal(err)
	}
	g, _ := c.groupResource("shop")
	ready := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.GroupReady)
	if ready == nil || ready.Reason != reasonAhead || g.Status.AchievedWindow != "0s" || g.Status.NewestPoint == nil {
		t.Errorf("%+v", g.Status)
	}
}

// A group that is to be replicated to a site that there is no Site of is not replicated,
// also while nothing of it is in use: it may never have been sent.
func TestAGroupAtRestMissesItsSite(t *testing.T) {
	c, p := newCluster(t), newPlane()
	p.add(1, c.namespace+"/shop", c.namespace, "data")
	p.edit(c.namespace+"/shop", func(st *group.State) { st.Settings.ReplicateTo = "nowhere" })
	p.resting = true
	c.make(&v1alpha1.ConsistencyGroup{ObjectMeta: metav1.ObjectMeta{Name: "shop"}, Spec: v1alpha1.ConsistencyGroupSpec{ReplicateTo: "nowhere"}})
	c.run(p)
	until(t, "the group to have a status", func() bool {
		g, _ := c.groupResource("shop")
		return g.Status.Replication != nil
	})
	g, _ := c.groupResource("shop")
	if r := g.Status.Replication; r.State != v1alpha1.ReplicationDisconnected || !strings.Contains(r.Message, "there is no Site nowhere") || isTrue(&g, v1alpha1.GroupReplicating) {
		t.Errorf("without a Site: %+v", r)
	}
}

// A recovery that has failed to go on for long, because the API server was away, is tried
// again within seconds: its group is down.
func TestAttemptsDoNotBecomeRare(t *testing.T) {
	limiter, request := patiently(), reconcile.Request{NamespacedName: types.NamespacedName{Name: "over"}}
	if first := limiter.When(request); first > time.Second {
		t.Errorf("the second attempt is %s after the first", first)
	}
	for range 40 {
		if pause := limiter.When(request); pause > longestBackoff {
			t.Fatalf("an attempt is %s after the one before", pause)
		}
	}
}
