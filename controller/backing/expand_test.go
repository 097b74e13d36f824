package backing_test

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/controller/backing"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

func (r *rig) bigger() backing.Spec {
	s := r.spec()
	s.VolumeBytes = 20 * gib
	return s
}

// setStatus plays the resizer or the kubelet.
func (r *rig) setStatus(change func(*corev1.PersistentVolumeClaimStatus)) {
	r.t.Helper()
	claim := r.store()
	change(&claim.Status)
	_, err := r.pvcs().UpdateStatus(r.t.Context(), claim, metav1.UpdateOptions{})
	r.check(err)
}

func setCapacity(bytes int64) func(*corev1.PersistentVolumeClaimStatus) {
	return func(s *corev1.PersistentVolumeClaimStatus) {
		s.Capacity[corev1.ResourceStorage] = quantity(bytes)
		s.Conditions = nil
	}
}

func setCondition(kind corev1.PersistentVolumeClaimConditionType) func(*corev1.PersistentVolumeClaimStatus) {
	return func(s *corev1.PersistentVolumeClaimStatus) {
		s.Conditions = []corev1.PersistentVolumeClaimCondition{{Type: kind, Status: corev1.ConditionTrue}}
	}
}

func (r *rig) expand() chan error {
	ended := make(chan error, 1)
	go func() { ended <- r.claims.Expand(r.t.Context(), r.bigger()) }()
	wanted := backing.SizeBytes(22 * gib)
	r.awaitClaim(kubenames.BackingClaim(volume), func(c *corev1.PersistentVolumeClaim) bool {
		return c.Spec.Resources.Requests.Storage().Value() == wanted
	})
	return ended
}

func TestExpandWaitsForTheFileSystem(t *testing.T) {
	r := newRig(t, expandable)
	r.ensure(r.spec())
	ended := r.expand()
	select {
	case err := <-ended:
		t.Fatalf("returned %v before anything has grown", err)
	default:
	}
	r.setStatus(setCapacity(backing.SizeBytes(22 * gib)))
	r.check(<-ended)
	r.check(r.claims.Expand(t.Context(), r.bigger()))
	r.check(r.claims.Expand(t.Context(), r.spec())) // never shrinks
	if got := r.store().Spec.Resources.Requests.Storage().Value(); got != backing.SizeBytes(22*gib) {
		t.Errorf("asks for %d after a smaller expansion", got)
	}
}

// A larger budget expands the journal's own claim, whether or not the store's
// can be; a larger volume expands both.
func TestExpandOfAJournalsOwnClaim(t *testing.T) {
	r := newRig(t)
	grows := r.namespace + ".grows"
	r.makeClass(grows, r.class, expandable)
	s := r.spec()
	s.JournalClass = grows
	r.ensure(s)
	before := r.store()
	s.JournalBytes *= 2
	ended := make(chan error, 1)
	go func() { ended <- r.claims.Expand(t.Context(), s) }()
	name, wanted := kubenames.JournalClaim(volume), backing.JournalSizeBytes(s.JournalBytes)
	claim := r.awaitClaim(name, func(c *corev1.PersistentVolumeClaim) bool {
		return c.Spec.Resources.Requests.Storage().Value() == wanted
	})
	claim.Status.Capacity[corev1.ResourceStorage] = quantity(wanted)
	_, err := r.pvcs().UpdateStatus(t.Context(), claim, metav1.UpdateOptions{})
	r.check(err)
	r.check(<-ended)
	if got := r.store(); got.ResourceVersion != before.ResourceVersion {
		t.Error("the store's claim was changed")
	}
	s.VolumeBytes *= 2
	if err := r.claims.Expand(t.Context(), s); !errors.Is(err, backing.ErrNotExpandable) {
		t.Errorf("a larger volume: %v, want ErrNotExpandable of the store's class", err)
	}
}

// Nothing is asked for where one of two claims cannot be expanded.
func TestExpandOfBothOrNone(t *testing.T) {
	r := newRig(t, expandable)
	fixed := r.namespace + ".fixed"
	r.makeClass(fixed, r.class)
	s := r.spec()
	s.JournalClass = fixed
	r.ensure(s)
	before := r.store()
	s.VolumeBytes, s.JournalBytes = 2*s.VolumeBytes, 2*s.JournalBytes
	if err := r.claims.Expand(t.Context(), s); !errors.Is(err, backing.ErrNotExpandable) {
		t.Errorf("got %v, want ErrNotExpandable", err)
	}
	if got := r.store(); got.ResourceVersion != before.ResourceVersion {
		t.Error("the store's claim was changed")
	}
}

func TestExpandSaysThatItNeedsTheEngine(t *testing.T) {
	r := newRig(t, expandable)
	r.ensure(r.spec())
	ended := r.expand()
	r.setStatus(setCondition(corev1.PersistentVolumeClaimFileSystemResizePending))
	if err := <-ended; !errors.Is(err, backing.ErrNeedsEngine) {
		t.Fatalf("got %v, want ErrNeedsEngine", err)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "engine", Labels: map[string]string{kubenames.LabelVolume: volume}},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	_, err := r.client.CoreV1().Pods(r.namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	r.check(err)
	ended = r.expand()
	r.setStatus(setCapacity(backing.SizeBytes(22 * gib)))
	r.check(<-ended)
}

func TestExpandRefusals(t *testing.T) {
	r := newRig(t)
	if err := r.claims.Expand(t.Context(), r.bigger()); !errors.Is(err, backing.ErrNotFound) {
		t.Errorf("no claim: %v, want ErrNotFound", err)
	}
	r.ensure(r.spec())
	if err := r.claims.Expand(t.Context(), r.bigger()); !errors.Is(err, backing.ErrNotExpandable) {
		t.Errorf("class without allowVolumeExpansion: %v, want ErrNotExpandable", err)
	}
}

func TestExpandThatTheStorageRefuses(t *testing.T) {
	r := newRig(t, expandable)
	r.ensure(r.spec())
	ended := r.expand()
	r.setStatus(func(s *corev1.PersistentVolumeClaimStatus) {
		s.AllocatedResources = corev1.ResourceList{corev1.ResourceStorage: quantity(backing.SizeBytes(22 * gib))}
		s.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{
			corev1.ResourceStorage: corev1.PersistentVolumeClaimControllerResizeInfeasible,
		}
	})
	if err := <-ended; !errors.Is(err, backing.ErrExhausted) {
		t.Fatalf("got %v, want ErrExhausted", err)
	}
	// Who asks for less then is not given what was refused.
	s := r.spec()
	s.VolumeBytes = 15 * gib
	less := backing.SizeBytes(17 * gib)
	go func() { ended <- r.claims.Expand(t.Context(), s) }()
	r.awaitClaim(kubenames.BackingClaim(volume), func(c *corev1.PersistentVolumeClaim) bool {
		return c.Spec.Resources.Requests.Storage().Value() == less
	})
	r.setStatus(func(s *corev1.PersistentVolumeClaimStatus) {
		setCapacity(less)(s)
		s.AllocatedResources, s.AllocatedResourceStatuses = nil, nil
	})
	r.check(<-ended)
}

func TestDeleteWaitsForThePod(t *testing.T) {
	r := newRig(t)
	r.ensure(r.spec())
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "engine"},
		Spec: corev1.PodSpec{
			NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: kubenames.BackingClaim(volume)},
			}}},
		},
	}
	pods := r.client.CoreV1().Pods(r.namespace)
	_, err := pods.Create(t.Context(), pod, metav1.CreateOptions{})
	r.check(err)
	if err := r.claims.Delete(briefly(t), volume); err == nil {
		t.Fatal("returned although a pod uses the claim")
	}
	now := int64(0)
	r.check(pods.Delete(t.Context(), "engine", metav1.DeleteOptions{GracePeriodSeconds: &now}))
	r.check(r.claims.Delete(t.Context(), volume))
	r.expectClaims()
}
