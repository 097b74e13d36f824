package operator

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/apitest"
	"github.com/lockstep-csi/lockstep/journal"
)

// replica is a site that holds the replicas of two volumes.
type replica struct {
	*cluster
	plane *plane
	ids   [2]byte
	// binder says that Kubernetes binds claims, which takes it about a second.
	binder bool
}

// bindAll does what Kubernetes would do about claims that name their volume. Like Kubernetes it does so again where somebody
// else wrote meanwhile: another test's binder may be one.
func (s *replica) bindAll() {
	s.t.Helper()
	var claims corev1.PersistentVolumeClaimList
	if err := s.List(s.t.Context(), &claims, client.InNamespace(s.namespace)); err != nil {
		s.t.Fatal(err)
	}
	for _, claim := range claims.Items {
		if err := retry.RetryOnConflict(retry.DefaultRetry, func() error { return s.bindNamed(client.ObjectKeyFromObject(&claim)) }); err != nil {
			s.t.Fatal(err)
		}
	}
}

// bindNamed binds one claim to the volume that it names, if it is not bound and its volume is there.
func (s *replica) bindNamed(key client.ObjectKey) error {
	var claim corev1.PersistentVolumeClaim
	if err := s.Get(s.t.Context(), key, &claim); err != nil {
		return err
	}
	var pv corev1.PersistentVolume
	if claim.Status.Phase == corev1.ClaimBound || s.Get(s.t.Context(), client.ObjectKey{Name: claim.Spec.VolumeName}, &pv) != nil {
		return nil
	}
	pv.Spec.ClaimRef.UID = claim.UID
	if err := s.Client.Update(s.t.Context(), &pv); err != nil {
		return err
	}
	claim.Status.Phase = corev1.ClaimBound
	return s.Status().Update(s.t.Context(), &claim)
}

// useBinder has Kubernetes bind.
func (s *replica) useBinder() {
	s.server.StartControllers(s.t, "persistentvolume-binder-controller")
	s.binder = true
}

// replicas counts the volumes that were made: PersistentVolumes, which are named
// after them, are of the whole cluster.
var replicaCount byte

func newReplica(t *testing.T) *replica {
	s := &replica{cluster: newCluster(t), plane: newPlane()}
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "journaled"}, Provisioner: testDriver}
	if err := s.Create(t.Context(), class); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	for i, name := range []string{"data", "log"} {
		replicaCount++
		s.ids[i] = 100 + replicaCount
		s.plane.add(s.ids[i], s.group(), s.namespace, name)
	}
	s.plane.edit(s.group(), func(st *group.State) { st.Role, st.Source, st.Term = group.RoleReplica, "there", 3 })
	t.Cleanup(func() {
		for _, n := range s.ids {
			s.removePV(volumePrefix + id(n).String())
		}
	})
	return s
}

func (s *replica) group() string { return s.namespace + "/shop" }

func (s *replica) failover(r *recoverer, steps int) (st v1alpha1.RecoveryStatus, err error) {
	s.t.Helper()
	until(s.t, "the failover to end", func() bool {
		var rec v1alpha1.Recovery
		if steps--; steps == 0 {
			return true
		}
		_, err = r.Reconcile(s.t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: s.namespace, Name: "over"}})
		if err != nil || s.get("over", &rec) != nil {
			return true
		}
		if !s.binder {
			s.bindAll()
		}
		st = rec.Status
		return st.Phase.Ended()
	})
	return st, err
}

func (s *replica) want() {
	s.t.Helper()
	s.make(&v1alpha1.Recovery{ObjectMeta: metav1.ObjectMeta{Name: "over"}, Spec: v1alpha1.RecoverySpec{Action: v1alpha1.ActionFailover, Group: "shop"}})
}

// check looks at what a failover has to leave.
func (s *replica) check(st v1alpha1.RecoveryStatus) {
	s.t.Helper()
	if st.Phase != v1alpha1.PhaseCompleted || st.Point == nil || st.Point.Checkpoint != 12 || st.Term != 4 || st.RPO != "6s" || len(st.Claims) != 2 {
		s.t.Errorf("status %+v", st)
	}
	if s.plane.failovers != 1 {
		s.t.Errorf("%d failovers", s.plane.failovers)
	}
	var adopted []journal.VolumeID
	for _, a := range s.plane.adopted {
		adopted = append(adopted, a.ID)
		if a.BlockBytes != 4096 || a.FSType != "ext4" || a.Group != s.group() || a.Settings.ReplicateTo != "there" || len(a.Topology) != 1 {
			s.t.Errorf("CSI was told %+v", a)
		}
	}
	for i, name := range []string{"data", "log"} {
		var claim corev1.PersistentVolumeClaim
		if err := s.get(name, &claim); err != nil {
			s.t.Fatal(err)
		}
		if claim.Status.Phase != corev1.ClaimBound || claim.Annotations[AnnotationGroup] != "shop" || claim.Labels["app"] != "shop" || *claim.Spec.StorageClassName != "journaled" {
			s.t.Errorf("claim %+v", claim)
		}
		var pv corev1.PersistentVolume
		if err := s.Get(s.t.Context(), client.ObjectKey{Name: claim.Spec.VolumeName}, &pv); err != nil {
			s.t.Fatal(err)
		}
		if pv.Spec.CSI.VolumeHandle != id(s.ids[i]).String() || pv.Spec.CSI.FSType != "ext4" || pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain ||
			pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Key != "zone" || pv.Spec.ClaimRef.UID != claim.UID {
			s.t.Errorf("volume %+v", pv.Spec)
		}
	}
	if len(adopted) < 2 {
		s.t.Errorf("CSI knows of %v", adopted)
	}
}

func TestFailoverSurvivesACrashAtEveryWrite(t *testing.T) {
	for k := 1; ; k++ {
		s := newReplica(t)
		s.want()
		config, fault := s.server.FaultConfig()
		// Half of the requests that are hit were carried out.
		fault.BreakWrite(k, []apitest.Kind{apitest.Unsent, apitest.Unanswered}[k%2], k+1)
		_, err := s.failover(newRecoverer(t, config, s.plane), 0)
		crashed := fault.Count() >= k
		if err != nil && !crashed {
			t.Fatal(err)
		}
		st, err := s.failover(newRecoverer(t, s.server.Config(), s.plane), 0)
		if err != nil {
			t.Fatalf("after a crash at request %d: %v", k, err)
		}
		s.check(st)
		if t.Failed() {
			t.Fatalf("after a crash at request %d", k)
		}
		if !crashed {
			if k < 8 {
				t.Errorf("the failover made %d writes", k)
			}
			return
		}
	}
}

// A failover of which the controller could not tell any more, and whose group the other
// site has taken back before the next controller looked, does not promote a second time.
func TestAFailoverDoesNotTakeBackWhatWasTakenBack(t *testing.T) {
	s := newReplica(t)
	s.want()
	config, fault := s.server.FaultConfig()
	r := newRecoverer(t, config, s.plane)
	for phase := v1alpha1.RecoveryPhase(""); phase != v1alpha1.PhasePromoting; {
		st, err := s.failover(r, 2) // one step
		if phase = st.Phase; err != nil || phase.Ended() {
			t.Fatalf("status %+v, %v", st, err)
		}
	}
	fault.BreakWrite(1, apitest.Unsent, 2)
	if _, err := s.failover(r, 2); err == nil || s.plane.failovers != 1 {
		t.Fatalf("%d promotions, and the status was written: %v", s.plane.failovers, err)
	}
	s.plane.edit(s.group(), func(st *group.State) {
		st.Role, st.Source, st.Term, st.Settings.ReplicateTo = group.RoleReplica, "there", 5, ""
	})
	st, err := s.failover(newRecoverer(t, s.server.Config(), s.plane), 0)
	if err != nil || st.Phase != v1alpha1.PhaseFailed || !strings.Contains(st.Message, "term 5") || !strings.Contains(st.Message, "site there") {
		t.Errorf("the failover ended as %+v, %v", st, err)
	}
	if s.plane.failovers != 1 {
		t.Errorf("%d promotions", s.plane.failovers)
	}
}

// Kubernetes itself binds what is made for it.
func TestKubernetesBindsWhatAFailoverMakes(t *testing.T) {
	s := newReplica(t)
	s.useBinder()
	s.want()
	st, err := s.failover(newRecoverer(t, s.server.Config(), s.plane), 0)
	if err != nil {
		t.Fatal(err)
	}
	s.check(st)
}

// A claim of that name which is another volume's is not touched, and nothing was
// promoted for it.
func TestAFailoverDoesNotTakeAForeignClaim(t *testing.T) {
	s := newReplica(t)
	s.make(claimNamed("log"))
	s.want()
	st, err := s.failover(newRecoverer(t, s.server.Config(), s.plane), 0)
	if err != nil {
		t.Fatal(err)
	}
	if st.Phase != v1alpha1.PhaseFailed || s.plane.failovers != 0 || !strings.Contains(st.Message, s.namespace+"/log exists") {
		t.Errorf("%+v", st)
	}
}

// A claim of that name that somebody makes after the group was promoted, a tool that puts the
// application's objects into the cluster for example, is waited for. There is no way to have
// the rest done later: a failover to a site that is the primary is none.
func TestAFailoverWaitsForAForeignClaim(t *testing.T) {
	s := newReplica(t)
	s.want()
	r := newRecoverer(t, s.server.Config(), s.plane)
	until(t, "the group to be promoted", func() bool {
		_, err := s.failover(r, 2)
		return err != nil || s.plane.failovers == 1
	})
	foreign := claimNamed("data")
	s.make(foreign)
	st, err := s.failover(r, 20)
	if err != nil || st.Phase != v1alpha1.PhasePublishing || !strings.Contains(st.Message, s.namespace+"/data exists") {
		t.Errorf("with a claim of the name: %+v, %v", st, err)
	}
	if err := s.get("log", claimNamed("log")); err != nil {
		t.Errorf("claim of the other volume: %v", err)
	}
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error { // another test's binder may look at it
		if err := s.get("data", foreign); err != nil {
			return err
		}
		foreign.Finalizers = nil // its protection's controller does not run here
		return s.Client.Update(t.Context(), foreign)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.remove(foreign)
	if st, err = s.failover(r, 0); err != nil {
		t.Fatal(err)
	}
	s.check(st)
}

// At a failback the claims and volumes of before are there: they are used again.
func TestAFailoverFindsWhatIsThere(t *testing.T) {
	s := newReplica(t)
	s.useBinder()
	for i, name := range []string{"data", "log"} {
		claim := claimNamed(name)
		s.bind(claim, id(s.ids[i]))
	}
	s.plane.volume(s.ids[0], func(v *fleet.Volume) { v.Attach = &fleet.Attachment{Node: "node1"} })
	s.want()
	r := newRecoverer(t, s.server.Config(), s.plane)
	if st, err := s.failover(r, 10); err != nil || st.Phase != v1alpha1.PhasePending || !strings.Contains(st.Message, "in use") {
		t.Errorf("while a device is there: %+v, %v", st, err)
	}
	s.plane.volume(s.ids[0], func(v *fleet.Volume) { v.Attach = nil })
	st, err := s.failover(r, 0)
	if err != nil || st.Phase != v1alpha1.PhaseCompleted || st.Claims[0].PersistentVolume != s.namespace+"-data" {
		t.Errorf("%+v, %v", st, err)
	}
}

// A volume of which nothing had arrived gets no claim, which would be one of nothing, and
// the recovery says that it has left it out.
func TestAFailoverLeavesOutWhatHadNotArrived(t *testing.T) {
	s := newReplica(t)
	s.plane.volume(s.ids[1], func(v *fleet.Volume) { v.Absent = true })
	s.want()
	st, err := s.failover(newRecoverer(t, s.server.Config(), s.plane), 0)
	if err != nil || st.Phase != v1alpha1.PhaseCompleted || len(st.Claims) != 1 || st.Claims[0].Claim != "data" || !strings.Contains(st.Message, s.namespace+"/log") {
		t.Errorf("%+v, %v", st, err)
	}
	var claim corev1.PersistentVolumeClaim
	if err := s.Get(t.Context(), client.ObjectKey{Namespace: s.namespace, Name: "log"}, &claim); !apierrors.IsNotFound(err) {
		t.Errorf("claim of a volume that is not there: %v", err)
	}
}

// A point may be that of a volume as well that has left the group, and whose engine does
// not run: it is started for that, and only for that.
func TestAFailoverStartsTheEnginesOfThePast(t *testing.T) {
	s := newReplica(t)
	s.plane.left = true
	s.want()
	st, err := s.failover(newRecoverer(t, s.server.Config(), s.plane), 50)
	if err != nil {
		t.Fatal(err)
	}
	s.check(st)
	if s.plane.awake != 0 || s.plane.past != 0 {
		t.Errorf("%d and %d engines held", s.plane.awake, s.plane.past)
	}
}

// Two failovers of one group that are made at once take turns: the first is done,
// and the second says that there is nothing left to do.
func TestTwoFailoversAtOnce(t *testing.T) {
	s := newReplica(t)
	r := newRecoverer(t, s.server.Config(), s.plane)
	names := []string{"one", "two"}
	for _, name := range names {
		s.make(&v1alpha1.Recovery{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.RecoverySpec{Action: v1alpha1.ActionFailover, Group: "shop"}})
	}
	status := map[string]v1alpha1.RecoveryStatus{}
	until(t, "both failovers to end", func() bool {
		for _, name := range names {
			var rec v1alpha1.Recovery
			if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: s.namespace, Name: name}}); err != nil {
				t.Fatal(err)
			}
			if err := s.get(name, &rec); err != nil {
				t.Fatal(err)
			}
			status[name] = rec.Status
		}
		s.bindAll()
		return status["one"].Phase.Ended() && status["two"].Phase.Ended()
	})
	s.check(status["one"])
	if st := status["two"]; st.Phase != v1alpha1.PhaseFailed || !strings.Contains(st.Message, "role") {
		t.Errorf("the second one: %+v", st)
	}
}

// A claim that a failover had made, and that was deleted while another site was the
// primary, has left its volume, which is kept and remembers that claim: the next
// failover makes a claim that Kubernetes binds to it all the same.
func TestAFailoverTakesBackTheVolumesOfDeletedClaims(t *testing.T) {
	s := newReplica(t)
	s.useBinder()
	s.want()
	r := newRecoverer(t, s.server.Config(), s.plane)
	if _, err := s.failover(r, 0); err != nil {
		t.Fatal(err)
	}
	s.remove(&v1alpha1.Recovery{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "over"}})
	for i, name := range []string{"data", "log"} {
		claim := claimNamed(name)
		if err := s.get(name, claim); err != nil {
			t.Fatal(err)
		}
		claim.Finalizers = nil // its protection's controller does not run here
		s.update(claim)
		s.remove(claim)
		var pv corev1.PersistentVolume
		until(t, "Kubernetes to let go of the volume of "+name, func() bool {
			err := s.Get(t.Context(), client.ObjectKey{Name: volumePrefix + id(s.ids[i]).String()}, &pv)
			return err == nil && pv.Status.Phase == corev1.VolumeReleased
		})
	}
	s.plane.edit(s.group(), func(st *group.State) { st.Role, st.Source = group.RoleReplica, "there" })
	s.plane.failovers = 0
	s.want()
	st, err := s.failover(r, 2000)
	if err != nil || st.Phase != v1alpha1.PhaseCompleted {
		t.Fatalf("%s: %s, %v", st.Phase, st.Message, err)
	}
}
