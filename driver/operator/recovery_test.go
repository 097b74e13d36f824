package operator

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/apitest"
	"github.com/lockstep-csi/lockstep/internal/clock"
)

// silent drops events.
type silent struct{}

func (silent) Eventf(runtime.Object, runtime.Object, string, string, string, string, ...any) {}

// newRecoverer is the recoverer of one life of the controller.
func newRecoverer(t *testing.T, config *rest.Config, p *plane) *recoverer {
	t.Helper()
	c, err := client.New(config, client.Options{Scheme: newScheme()})
	if err != nil {
		t.Fatal(err)
	}
	d := decider{c, c}
	return &recoverer{client: c, scaler: scaler{c, d}, fleet: p, catalog: p, driver: testDriver, events: events{silent{}}, clock: clock.Wall{},
		log: slog.New(slog.DiscardHandler)}
}

// shop is a StatefulSet of two replicas over two claims of one group, and what
// Kubernetes would do for it.
type shop struct {
	*cluster
	plane *plane
	set   *appsv1.StatefulSet
	busy  bool // what pods had mounted stays mounted
}

func newShop(t *testing.T) *shop {
	s := &shop{cluster: newCluster(t), plane: newPlane()}
	for n, name := range []string{"data-0", "data-1"} {
		claim := claimNamed(name)
		s.bind(claim, id(byte(n+1)))
		s.plane.add(byte(n+1), s.group(), s.namespace, name)
	}
	replicas := int32(2)
	labels := map[string]string{"app": "shop"}
	s.set = &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "shop"}, Spec: appsv1.StatefulSetSpec{Replicas: &replicas, ServiceName: "shop",
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()}}}
	s.make(s.set)
	s.play()
	return s
}

func (s *shop) group() string { return s.namespace + "/shop" }

// play makes what a StatefulSet controller, an attacher and a kubelet would make
// of the StatefulSet's size. Volumes stay attached without their pods, as they do
// for seconds, and the nodes unmount them at once unless busy says otherwise.
func (s *shop) play() {
	s.t.Helper()
	var set appsv1.StatefulSet
	if err := s.get("shop", &set); err != nil {
		s.t.Fatal(err)
	}
	for n := range 2 {
		name, claim := fmt.Sprint("shop-", n), fmt.Sprint("data-", n)
		var pod corev1.Pod
		err := s.get(name, &pod)
		switch wanted := int32(n) < *set.Spec.Replicas; {
		case wanted && apierrors.IsNotFound(err):
			pod := podNamed(name, claim)
			pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(&set, appsv1.SchemeGroupVersion.WithKind("StatefulSet"))}
			s.make(pod)
			s.plane.use(byte(n+1), true)
		case !wanted && err == nil:
			s.remove(&pod)
			s.plane.use(byte(n+1), s.busy)
		}
	}
}

func (s *shop) size() int32 {
	s.t.Helper()
	var set appsv1.StatefulSet
	if err := s.get("shop", &set); err != nil {
		s.t.Fatal(err)
	}
	return *set.Spec.Replicas
}

func (s *shop) recovery(name string, spec v1alpha1.RecoverySpec) {
	s.t.Helper()
	spec.Group = "shop"
	s.make(&v1alpha1.Recovery{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec})
}

// step lets the recoverer have one look, and Kubernetes react; done says that
// the recovery has ended.
func (s *shop) step(r *recoverer, name string) (done bool, err error) {
	_, err = r.Reconcile(s.t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: s.namespace, Name: name}})
	s.play()
	return s.status(name).Phase.Ended(), err
}

func (s *shop) status(name string) v1alpha1.RecoveryStatus {
	s.t.Helper()
	var rec v1alpha1.Recovery
	if err := s.get(name, &rec); err != nil {
		s.t.Fatal(err)
	}
	return rec.Status
}

// phases are those that a recovery has entered, which must be in the order of
// their times.
func phases(st v1alpha1.RecoveryStatus) []v1alpha1.RecoveryPhase {
	var all []v1alpha1.RecoveryPhase
	var last time.Time
	for _, entry := range st.Phases {
		if entry.Time.Before(&metav1.MicroTime{Time: last}) {
			return nil
		}
		all, last = append(all, entry.Phase), entry.Time.Time
	}
	return all
}

// maxSteps is more than any recovery takes.
const maxSteps = 60

// finish takes steps until the recovery has ended.
func (s *shop) finish(r *recoverer, name string) v1alpha1.RecoveryStatus {
	s.t.Helper()
	for range maxSteps {
		done, err := s.step(r, name)
		if err != nil {
			s.t.Fatal(err)
		}
		if done {
			return s.status(name)
		}
	}
	s.t.Fatalf("Recovery %s does not end: %+v", name, s.status(name))
	return v1alpha1.RecoveryStatus{}
}

// A rewind, its undo, and another with a commit: workloads go down and come up
// with the size that they had, and the group is where it is to be.
func TestRewindUndoCommit(t *testing.T) {
	s := newShop(t)
	r := newRecoverer(t, s.server.Config(), s.plane)
	s.recovery("back", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "2026-11-22T10:01:30Z"})
	st := s.finish(r, "back")
	if st.Phase != v1alpha1.PhaseCompleted || st.Point == nil || st.Point.Checkpoint != 11 || st.Before == nil || st.Before.Checkpoint != 99 || st.CompletionTime == nil {
		t.Errorf("rewind: %+v", st)
	}
	if len(st.Workloads) != 1 || st.Workloads[0].Kind != "StatefulSet" || st.Workloads[0].Replicas != 2 || !st.Workloads[0].Restored || s.size() != 2 {
		t.Errorf("workloads %+v, size %d", st.Workloads, s.size())
	}
	if got := phases(st); !slices.Equal(got, []v1alpha1.RecoveryPhase{v1alpha1.PhasePending, v1alpha1.PhaseQuiescing, v1alpha1.PhaseDetaching,
		v1alpha1.PhaseRewinding, v1alpha1.PhaseResuming, v1alpha1.PhaseCompleted}) {
		t.Errorf("phases %v", got)
	}
	s.recovery("again", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "latest"})
	if st := s.finish(r, "again"); st.Phase != v1alpha1.PhaseFailed || !strings.Contains(st.Message, "undo or commit") || s.size() != 2 || len(st.Workloads) != 0 {
		t.Errorf("a second rewind: %+v", st)
	}
	s.recovery("undo", v1alpha1.RecoverySpec{Action: v1alpha1.ActionUndo})
	if st := s.finish(r, "undo"); st.Phase != v1alpha1.PhaseCompleted || st.Point.Checkpoint != 99 || s.size() != 2 {
		t.Errorf("undo: %+v", st)
	}
	s.recovery("undo-2", v1alpha1.RecoverySpec{Action: v1alpha1.ActionUndo})
	if st := s.finish(r, "undo-2"); st.Phase != v1alpha1.PhaseFailed {
		t.Errorf("an undo without a rewind: %+v", st)
	}
	s.recovery("back-2", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "10"})
	s.finish(r, "back-2")
	s.recovery("commit", v1alpha1.RecoverySpec{Action: v1alpha1.ActionCommit})
	if st := s.finish(r, "commit"); st.Phase != v1alpha1.PhaseCompleted || st.Point.Checkpoint != 10 || len(st.Workloads) != 0 {
		t.Errorf("commit: %+v", st)
	}
	if p := s.plane; p.rewinds != 2 || p.undos != 1 || p.commits != 1 || p.awake != 0 {
		t.Errorf("%d rewinds, %d undos, %d commits, %d engines held", p.rewinds, p.undos, p.commits, p.awake)
	}
}

// A point of before a volume left the group needs that volume's engine, which may have
// ended by the time that what uses the group has stopped.
func TestARewindStartsTheEnginesOfThePast(t *testing.T) {
	s := newShop(t)
	s.plane.left = true
	s.recovery("back", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "11"})
	st := s.finish(newRecoverer(t, s.server.Config(), s.plane), "back")
	if st.Phase != v1alpha1.PhaseCompleted || st.Point == nil || st.Point.Checkpoint != 11 || s.plane.rewinds != 1 || s.plane.awake != 0 || s.plane.past != 0 {
		t.Errorf("%+v; %d rewinds, %d and %d engines held", st, s.plane.rewinds, s.plane.awake, s.plane.past)
	}
}

// The controller dies at each of its requests that change something, before or
// after it was carried out, and the next one ends what it began: once, with every
// workload as big as it was.
func TestARewindSurvivesACrashAtEveryWrite(t *testing.T) {
	for _, kind := range []apitest.Kind{apitest.Unsent, apitest.Unanswered} {
		t.Run(kind.String(), func(t *testing.T) {
			for k := 1; ; k++ {
				if !crashRewind(t, k, kind) {
					if k < 8 {
						t.Errorf("the rewind made %d writes: too few for a rewind", k)
					}
					return
				}
			}
		})
	}
}

// crashRewind reports whether the rewind got as far as its k-th write.
func crashRewind(t *testing.T, k int, kind apitest.Kind) (crashed bool) {
	t.Helper()
	s := newShop(t)
	s.recovery("back", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "11"})
	config, fault := s.server.FaultConfig()
	r := newRecoverer(t, config, s.plane)
	fault.BreakWrite(k, kind, k+1)
	for range maxSteps {
		done, err := s.step(r, "back")
		if fault.Count() >= k {
			break
		}
		if err != nil {
			t.Fatalf("request %d: %v", k, err)
		}
		if done {
			break
		}
	}
	crashed = fault.Count() >= k
	st := s.finish(newRecoverer(t, s.server.Config(), s.plane), "back")
	if st.Phase != v1alpha1.PhaseCompleted || st.Point == nil || st.Point.Checkpoint != 11 || st.Before == nil || st.Before.Checkpoint != 99 {
		t.Errorf("crash at request %d: %+v", k, st)
	}
	if len(st.Workloads) != 1 || st.Workloads[0].Replicas != 2 || s.size() != 2 || s.plane.rewinds != 1 || len(s.plane.held) != 0 {
		t.Errorf("crash at request %d: workloads %+v, size %d, %d rewinds, %v held", k, st.Workloads, s.size(), s.plane.rewinds, s.plane.held)
	}
	return crashed
}

// What cannot be done is refused before anything is scaled, and says what can.
func TestARecoveryIsRefusedBeforeAnythingIsStopped(t *testing.T) {
	tests := []struct {
		name    string
		spec    v1alpha1.RecoverySpec
		prepare func(*shop)
		says    []string
	}{
		{"no point", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "5"}, func(*shop) {}, []string{"nearest", "10 at 2026-11-22T10:00:00Z"}},
		{"before all points", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "2026-11-22T09:00:00Z"}, func(*shop) {}, []string{"10 at 2026-11-22T10:00:00Z"}},
		{"replica", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "latest"},
			func(s *shop) {
				s.plane.edit(s.group(), func(st *group.State) { st.Role, st.Source = group.RoleReplica, "there" })
			},
			[]string{"there", "fail over"}},
		{"failover of the primary", v1alpha1.RecoverySpec{Action: v1alpha1.ActionFailover}, func(s *shop) {
			s.scale(0)
			for n := range byte(2) { // and Kubernetes has detached
				s.plane.volume(n+1, func(v *fleet.Volume) { v.Attach = nil })
			}
		}, []string{"role"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newShop(t)
			tt.prepare(s)
			before := s.size()
			s.recovery("r", tt.spec)
			st := s.finish(newRecoverer(t, s.server.Config(), s.plane), "r")
			if st.Phase != v1alpha1.PhaseFailed || s.size() != before || len(st.Workloads) != 0 {
				t.Errorf("%+v, size %d", st, s.size())
			}
			for _, text := range tt.says {
				if !strings.Contains(st.Message, text) {
					t.Errorf("message %q does not say %q", st.Message, text)
				}
			}
		})
	}
}

func (s *shop) scale(size int32) {
	s.t.Helper()
	var set appsv1.StatefulSet
	if err := s.get("shop", &set); err != nil {
		s.t.Fatal(err)
	}
	set.Spec.Replicas = &size
	s.update(&set)
	s.play()
}

// A rewind that fails when everything is stopped starts it again, and one that
// is to leave workloads alone waits until somebody has stopped them.
func TestWorkloadsComeBack(t *testing.T) {
	s := newShop(t)
	r := newRecoverer(t, s.server.Config(), s.plane)
	s.recovery("lost", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "10"})
	for s.status("lost").Phase != v1alpha1.PhaseRewinding {
		if _, err := s.step(r, "lost"); err != nil {
			t.Fatal(err)
		}
	}
	s.plane.mu.Lock()
	s.plane.points[s.group()] = s.plane.points[s.group()][1:] // the point leaves the window
	s.plane.mu.Unlock()
	if st := s.finish(r, "lost"); st.Phase != v1alpha1.PhaseFailed || s.size() != 2 || !strings.Contains(st.Message, "nearest: 11") {
		t.Errorf("size %d, %+v", s.size(), st)
	}
	s.recovery("keep", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "11", Workloads: v1alpha1.WorkloadsKeep})
	for range 10 {
		if _, err := s.step(r, "keep"); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.status("keep"); st.Phase != v1alpha1.PhaseQuiescing || !strings.Contains(st.Message, "shop-0, shop-1") || s.size() != 2 {
		t.Errorf("size %d, %+v", s.size(), st)
	}
	s.scale(0)
	if st := s.finish(r, "keep"); st.Phase != v1alpha1.PhaseCompleted || s.size() != 0 {
		t.Errorf("size %d, %+v", s.size(), st)
	}
}

// Why a recovery has failed is told at its end, and not what kept its workloads from being
// scaled back for a moment.
func TestAFailedRecoverySaysWhy(t *testing.T) {
	s := newShop(t)
	config, fault := s.server.FaultConfig()
	r := newRecoverer(t, config, s.plane)
	s.recovery("lost", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "10"})
	for s.status("lost").Phase != v1alpha1.PhaseRewinding {
		if _, err := s.step(r, "lost"); err != nil {
			t.Fatal(err)
		}
	}
	s.plane.mu.Lock()
	s.plane.points[s.group()] = s.plane.points[s.group()][1:] // the point leaves the window
	s.plane.mu.Unlock()
	if _, err := s.step(r, "lost"); err != nil || s.status("lost").Phase != v1alpha1.PhaseResuming {
		t.Fatalf("%v, %+v", err, s.status("lost"))
	}
	fault.Break(2, apitest.Unsent, 0) // behind the Recovery, the StatefulSet
	if _, err := s.step(r, "lost"); err == nil {
		t.Fatal("the StatefulSet was scaled although it could not be read")
	}
	st := s.finish(r, "lost")
	complete := meta.FindStatusCondition(st.Conditions, v1alpha1.RecoveryComplete)
	if st.Phase != v1alpha1.PhaseFailed || s.size() != 2 || !strings.Contains(st.Message, "nearest: 11") || complete == nil || complete.Message != st.Message {
		t.Errorf("size %d, %+v", s.size(), st)
	}
}

// A recovery that is deleted under way is gone when it has ended, and not before:
// nobody else knows how big the workloads were. One that has not begun is gone at
// once, and does nothing.
func TestADeletedRecoveryEnds(t *testing.T) {
	s := newShop(t)
	r := newRecoverer(t, s.server.Config(), s.plane)
	gone := func(name string) bool { return apierrors.IsNotFound(s.get(name, &v1alpha1.Recovery{})) }
	remove := func(name string) {
		t.Helper()
		if err := s.Delete(t.Context(), &v1alpha1.Recovery{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	look := func(name string) {
		t.Helper()
		if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: s.namespace, Name: name}}); err != nil {
			t.Fatal(err)
		}
		s.play()
	}
	s.recovery("back", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "10"})
	for s.size() > 0 {
		look("back")
	}
	s.recovery("waits", v1alpha1.RecoverySpec{Action: v1alpha1.ActionCommit})
	for range 3 {
		look("waits")
	}
	remove("back")
	remove("waits")
	look("waits")
	if !gone("waits") || gone("back") {
		t.Errorf("the one that waited is gone %t, the one under way %t", gone("waits"), gone("back"))
	}
	for range maxSteps {
		if gone("back") {
			break
		}
		look("back")
	}
	if !gone("back") || s.size() != 2 || s.plane.rewinds != 1 || s.plane.commits != 0 {
		t.Errorf("gone %t, size %d, %d rewinds, %d commits", gone("back"), s.size(), s.plane.rewinds, s.plane.commits)
	}
	s.recovery("undo", v1alpha1.RecoverySpec{Action: v1alpha1.ActionUndo})
	s.finish(r, "undo")
	remove("undo")
	if !gone("undo") {
		t.Error("one that has ended cannot be deleted")
	}
}

// Recoveries of one group take turns, and whoever scales a workload up in the
// midst of one finds it scaled down again.
func TestRecoveriesTakeTurns(t *testing.T) {
	s := newShop(t)
	r := newRecoverer(t, s.server.Config(), s.plane)
	s.recovery("a", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "10"})
	s.recovery("b", v1alpha1.RecoverySpec{Action: v1alpha1.ActionCommit})
	for range 3 {
		if _, err := s.step(r, "b"); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.status("b"); st.Phase != v1alpha1.PhasePending || !strings.Contains(st.Message, "Recovery a") {
		t.Errorf("the second one does not wait: %+v", st)
	}
	for s.status("a").Phase != v1alpha1.PhaseDetaching {
		if _, err := s.step(r, "a"); err != nil {
			t.Fatal(err)
		}
	}
	s.scale(1)
	if st := s.finish(r, "a"); st.Phase != v1alpha1.PhaseCompleted || st.Workloads[0].Replicas != 2 || s.size() != 2 {
		t.Errorf("size %d, %+v", s.size(), st)
	}
	if st := s.finish(r, "b"); st.Phase != v1alpha1.PhaseCompleted {
		t.Errorf("%+v", st)
	}
}

// A group whose pods are gone is rewound when its nodes have unmounted it: before
// Kubernetes detaches it, and not before that.
func TestARewindWaitsForUnmounts(t *testing.T) {
	s := newShop(t)
	s.busy = true
	r := newRecoverer(t, s.server.Config(), s.plane)
	s.recovery("back", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "10"})
	for s.status("back").Phase != v1alpha1.PhaseDetaching {
		if _, err := s.step(r, "back"); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		if _, err := s.step(r, "back"); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.status("back"); st.Phase != v1alpha1.PhaseDetaching || !strings.Contains(st.Message, "is mounted") || s.plane.rewinds != 0 {
		t.Errorf("%d rewinds, %+v", s.plane.rewinds, st)
	}
	if len(s.plane.held) != 1 || !slices.Contains(slices.Collect(maps.Values(s.plane.held)), 10) {
		t.Errorf("while it waits %v is held, want its point", s.plane.held)
	}
	for n := range byte(2) {
		s.plane.use(n+1, false)
	}
	if st := s.finish(r, "back"); st.Phase != v1alpha1.PhaseCompleted || s.plane.rewinds != 1 || len(s.plane.held) != 0 {
		t.Errorf("%d rewinds, %+v, and %v is held", s.plane.rewinds, st, s.plane.held)
	}
	for _, v := range s.plane.Volumes() {
		if v.Attach == nil {
			t.Errorf("volume %s was detached for it", v.ID)
		}
	}
}

// A device that has not come back after the rewind is tried again, and waited for,
// with the workloads up: their pods wait for it as well.
func TestARewindEndsWithItsDevices(t *testing.T) {
	s := newShop(t)
	r := newRecoverer(t, s.server.Config(), s.plane)
	s.recovery("back", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "10"})
	for s.status("back").Phase != v1alpha1.PhaseResuming {
		if _, err := s.step(r, "back"); err != nil {
			t.Fatal(err)
		}
	}
	device := func(path string) {
		s.plane.volume(2, func(v *fleet.Volume) { v.State.Device, v.State.Error = path, "no holder answers" })
	}
	for range 3 {
		device("")
		if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: s.namespace, Name: "back"}}); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.status("back"); st.Phase != v1alpha1.PhaseResuming || !strings.Contains(st.Message, "no holder answers") || s.size() != 2 {
		t.Errorf("size %d, %+v", s.size(), st)
	}
	device("/dev/loop1")
	if st := s.finish(r, "back"); st.Phase != v1alpha1.PhaseCompleted || s.plane.awake != 0 {
		t.Errorf("%d engines held, %+v", s.plane.awake, st)
	}
}

// A Recovery of a name that no group can have ends, and one of a group that may come waits.
func TestARecoveryOfNoPossibleGroupFails(t *testing.T) {
	s := &shop{cluster: newCluster(t), plane: newPlane()}
	r := newRecoverer(t, s.server.Config(), s.plane)
	for n, tt := range []struct {
		group string
		want  v1alpha1.RecoveryPhase
	}{
		{"Shop", v1alpha1.PhaseFailed}, {"prod/shop", v1alpha1.PhaseFailed}, {"two words", v1alpha1.PhaseFailed},
		{strings.Repeat("x", 253), v1alpha1.PhaseFailed}, {"shop-2", v1alpha1.PhasePending},
		{"data.db", v1alpha1.PhasePending}, // as a claim
	} {
		object := fmt.Sprintf("impossible-%d", n)
		s.make(&v1alpha1.Recovery{ObjectMeta: metav1.ObjectMeta{Name: object}, Spec: v1alpha1.RecoverySpec{Action: v1alpha1.ActionFailover, Group: tt.group}})
		var rec v1alpha1.Recovery
		for range 2 { // to Pending, and what comes of that
			if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: s.namespace, Name: object}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.get(object, &rec); err != nil || rec.Status.Phase != tt.want || rec.Status.Message == "" {
			t.Errorf("group %q: %s, %q, %v; want %s", tt.group, rec.Status.Phase, rec.Status.Message, err, tt.want)
		}
	}
}
