package orphan_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/controller/orphan"
	"github.com/lockstep-csi/lockstep/internal/apitest"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

const (
	driver = "csi.lockstep.dev"
	grace  = 8 * time.Minute
)

// sweep is a sweeper that runs on a clock of its own.
type sweep struct {
	t         *testing.T
	client    kubernetes.Interface
	namespace string
	clock     *clock.Manual

	mu      sync.Mutex
	known   []string // volumes of the catalog
	unused  []controller.Unused
	deleted []string // of the unused ones
}

func startSweep(t *testing.T) *sweep {
	t.Helper()
	s := apitest.Start(t)
	w := &sweep{t: t, client: s.Client(), namespace: s.Namespace(t), clock: clock.NewManual(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))}
	sweeper, err := orphan.New(orphan.Config{Client: w.client, Namespace: w.namespace, Site: "a", Driver: driver, Volumes: w.volumes,
		Unused: w.unusedVolumes, DeleteUnused: w.deleteUnused, Grace: grace, Clock: w.clock, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- sweeper.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the sweeper ended: %v", err)
		}
	})
	w.clock.WaitForTimers(1)
	return w
}

func (w *sweep) volumes() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.known)
}

func (w *sweep) unusedVolumes() ([]controller.Unused, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.unused), nil
}

func (w *sweep) deleteUnused(_ context.Context, volume string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deleted = append(w.deleted, volume)
	w.unused = slices.DeleteFunc(w.unused, func(v controller.Unused) bool { return v.ID == volume })
	return nil
}

func (w *sweep) know(volumes ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known = volumes
}

// pass lets time pass, and the sweeper look as often as it does then.
func (w *sweep) pass(d time.Duration) {
	for step, ok := w.clock.Next(); ok && step <= d; step, ok = w.clock.Next() {
		w.clock.Advance(step)
		w.clock.WaitForTimers(1)
		d -= step
	}
	w.clock.Advance(d)
}

func (w *sweep) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// own makes everything that a volume owns; bound: its claim is.
func (w *sweep) own(volume, site string, bound bool) {
	w.t.Helper()
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Labels: map[string]string{kubenames.LabelVolume: volume, kubenames.LabelSite: site}}
	}
	ctx := w.t.Context()
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: meta(kubenames.BackingClaim(volume)), Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
	if bound {
		claim.Spec.VolumeName = "backing-" + volume
	}
	_, err := w.client.CoreV1().PersistentVolumeClaims(w.namespace).Create(ctx, claim, metav1.CreateOptions{})
	w.check(err)
	pod := &corev1.Pod{ObjectMeta: meta(kubenames.Engine(volume)), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "engine", Image: "x"}}}}
	_, err = w.client.CoreV1().Pods(w.namespace).Create(ctx, pod, metav1.CreateOptions{})
	w.check(err)
	one := intstr.FromInt32(1)
	_, err = w.client.PolicyV1().PodDisruptionBudgets(w.namespace).Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: meta(kubenames.Engine(volume)), Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &one}}, metav1.CreateOptions{})
	w.check(err)
	_, err = w.client.CoordinationV1().Leases(w.namespace).Create(ctx, &coordinationv1.Lease{ObjectMeta: meta(kubenames.Engine(volume))}, metav1.CreateOptions{})
	w.check(err)
}

// left are the kinds of a volume's objects that nobody has deleted.
func (w *sweep) left(volume string) string {
	w.t.Helper()
	objects, err := orphan.List(w.t.Context(), w.client, w.namespace)
	w.check(err)
	claims, err := w.client.CoreV1().PersistentVolumeClaims(w.namespace).List(w.t.Context(), metav1.ListOptions{})
	w.check(err)
	var kinds []string
	for _, o := range objects {
		// A claim that is deleted waits for a controller that does not run here.
		deleted := slices.ContainsFunc(claims.Items, func(c corev1.PersistentVolumeClaim) bool { return c.UID == o.UID && c.DeletionTimestamp != nil })
		if o.Volume == volume && !deleted {
			kinds = append(kinds, o.Kind)
		}
	}
	slices.Sort(kinds)
	return strings.Join(kinds, " ")
}

func (w *sweep) want(volume, kinds string) {
	w.t.Helper()
	if got := w.left(volume); got != kinds {
		w.t.Errorf("of volume %s there are %q, want %q", volume, got, kinds)
	}
}

// name makes a PersistentVolume of a volume.
func (w *sweep) name(volume string) {
	w.t.Helper()
	_, err := w.client.CoreV1().PersistentVolumes().Create(w.t.Context(), &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{GenerateName: "sweep-"},
		Spec: corev1.PersistentVolumeSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: volume}}}}, metav1.CreateOptions{})
	w.check(err)
}

const all = "Lease PersistentVolumeClaim Pod PodDisruptionBudget"

func TestSweep(t *testing.T) {
	w := startSweep(t)
	w.know("known")
	w.own("known", "a", true)
	w.own("empty", "a", false)
	w.own("full", "a", true)
	w.own("elsewhere", "b", false)
	// A catalog that was lost does not know it, but a pod may be using it.
	w.own("used", "a", false)
	w.name("used")
	w.pass(grace) // the first look at them is within it
	for _, volume := range []string{"known", "empty", "full", "elsewhere", "used"} {
		w.want(volume, all)
	}
	w.pass(grace)
	w.want("empty", "")
	w.want("full", "PersistentVolumeClaim")
	for _, volume := range []string{"known", "elsewhere", "used"} {
		w.want(volume, all)
	}
}

// TestSweepGrace checks that an object which is not an orphan all the time is
// not swept: its time begins anew.
func TestSweepGrace(t *testing.T) {
	w := startSweep(t)
	w.own("v", "a", false)
	w.pass(grace)
	w.know("v")
	w.pass(grace / 4)
	w.know()
	w.pass(grace)
	w.want("v", all)
	w.pass(grace)
	w.want("v", "")
}

// TestSweepUnused checks that a volume that nobody has used goes when its claim is
// gone, and not while the claim is there, a PersistentVolume names it, or it is a
// copy of another one.
func TestSweepUnused(t *testing.T) {
	w := startSweep(t)
	claims := w.client.CoreV1().PersistentVolumeClaims(w.namespace)
	claim, err := claims.Create(t.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}, metav1.CreateOptions{})
	w.check(err)
	w.name("named")
	w.mu.Lock()
	w.unused = []controller.Unused{
		{ID: "awaited", Name: "pvc-" + string(claim.UID), Claim: w.namespace + "/data"},
		{ID: "of an earlier claim", Name: "pvc-0f0f", Claim: w.namespace + "/data"},
		{ID: "of a claim that is gone", Name: "pvc-1e1e", Claim: w.namespace + "/gone"},
		{ID: "copy", Name: "pvc-3c3c", Claim: w.namespace + "/gone", Copy: true},
		{ID: "named", Name: "pvc-2d2d", Claim: w.namespace + "/gone"},
	}
	w.mu.Unlock()
	w.pass(grace)
	w.wantDeleted("")
	w.pass(grace)
	w.wantDeleted("of a claim that is gone, of an earlier claim")
}

func (w *sweep) wantDeleted(volumes string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.deleted)
	if got := strings.Join(w.deleted, ", "); got != volumes {
		w.t.Errorf("deleted are %q, want %q", got, volumes)
	}
}
