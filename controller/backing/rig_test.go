package backing_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/lockstep-csi/lockstep/controller/backing"
	"github.com/lockstep-csi/lockstep/controller/kubewait"
	"github.com/lockstep-csi/lockstep/internal/apitest"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

const (
	driver = "csi.lockstep.dev"
	gib    = 1 << 30
	// controllers bind claims and let go of deleted ones.
	controllers = "persistentvolume-binder-controller,persistentvolumeclaim-protection-controller,persistentvolume-protection-controller"
)

var volume = strings.Repeat("0f", 16)

// rig is a namespace with a storage class and its provisioner, which the test
// plays: all else is Kubernetes.
type rig struct {
	t         *testing.T
	server    *apitest.Server
	client    kubernetes.Interface
	namespace string
	class     string // its provisioner has the same name
	claims    *backing.Claims

	mu     sync.Mutex                                                                    // guards the fields below
	answer func(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) string // fills in the volume, or returns a refusal
}

func newRig(t *testing.T, changes ...func(*storagev1.StorageClass)) *rig {
	t.Helper()
	s := apitest.Start(t)
	s.StartControllers(t, controllers)
	r := &rig{t: t, server: s, client: s.Client(), namespace: s.Namespace(t)}
	r.class = r.namespace + ".storage.test"
	r.makeClass(r.class, r.class, changes...)
	r.claims = r.claimsOf(r.client)
	r.answerWith(hostPath)
	ctx, stop := context.WithCancel(t.Context())
	var provisioner sync.WaitGroup
	provisioner.Go(func() {
		_ = kubewait.Until(ctx, r.provision, kubewait.Selected(r.pvcs(), ""))
	})
	t.Cleanup(func() {
		stop()
		provisioner.Wait()
	})
	return r
}

func (r *rig) claimsOf(client kubernetes.Interface) *backing.Claims {
	r.t.Helper()
	c, err := backing.New(backing.Config{Client: client, Namespace: r.namespace, Driver: driver})
	r.check(err)
	return c
}

func (r *rig) makeClass(name, provisioner string, changes ...func(*storagev1.StorageClass)) {
	r.t.Helper()
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner}
	for _, change := range changes {
		change(class)
	}
	_, err := r.client.StorageV1().StorageClasses().Create(r.t.Context(), class, metav1.CreateOptions{})
	r.check(err)
}

func firstConsumer(c *storagev1.StorageClass) {
	mode := storagev1.VolumeBindingWaitForFirstConsumer
	c.VolumeBindingMode = &mode
}

func expandable(c *storagev1.StorageClass) {
	yes := true
	c.AllowVolumeExpansion = &yes
}

func (r *rig) pvcs() pvcs { return r.client.CoreV1().PersistentVolumeClaims(r.namespace) }

type pvcs interface {
	kubewait.Watcher
	Get(ctx context.Context, name string, o metav1.GetOptions) (*corev1.PersistentVolumeClaim, error)
	List(ctx context.Context, o metav1.ListOptions) (*corev1.PersistentVolumeClaimList, error)
	Create(ctx context.Context, c *corev1.PersistentVolumeClaim, o metav1.CreateOptions) (*corev1.PersistentVolumeClaim, error)
	UpdateStatus(ctx context.Context, c *corev1.PersistentVolumeClaim, o metav1.UpdateOptions) (*corev1.PersistentVolumeClaim, error)
	Delete(ctx context.Context, name string, o metav1.DeleteOptions) error
}

// answerWith says how the provisioner answers from now on.
func (r *rig) answerWith(answer func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func hostPath(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) string {
	pv.Spec.HostPath = &corev1.HostPathVolumeSource{Path: "/x"}
	return ""
}

// refuse answers with an event.
func refuse(message string) func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) string {
	return func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) string { return message }
}

// provision serves the claims that Kubernetes hands to this provisioner, as an
// external provisioner does: it looks at nothing but the annotation.
func (r *rig) provision(ctx context.Context) (bool, error) {
	list, err := r.pvcs().List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, nil
	}
	for i := range list.Items {
		claim := &list.Items[i]
		if claim.Annotations["volume.kubernetes.io/storage-provisioner"] == r.class && claim.Spec.VolumeName == "" && claim.DeletionTimestamp == nil {
			r.provisionOne(ctx, claim)
		}
	}
	return false, nil
}

func (r *rig) provisionOne(ctx context.Context, claim *corev1.PersistentVolumeClaim) {
	reclaim := corev1.PersistentVolumeReclaimDelete
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-" + string(claim.UID), Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": r.class}},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: r.class, AccessModes: claim.Spec.AccessModes, PersistentVolumeReclaimPolicy: reclaim,
			Capacity: corev1.ResourceList{corev1.ResourceStorage: *claim.Spec.Resources.Requests.Storage()},
			ClaimRef: &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
		},
	}
	r.mu.Lock()
	refusal := r.answer(claim, pv)
	r.mu.Unlock()
	if refusal == "" {
		if _, err := r.client.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
			r.t.Errorf("make volume: %v", err)
		}
		return
	}
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "failed-" + string(claim.UID), Namespace: r.namespace},
		InvolvedObject: corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
		Type:           corev1.EventTypeWarning, Reason: "ProvisioningFailed", Message: refusal, LastTimestamp: metav1.Now(),
	}
	if _, err := r.client.CoreV1().Events(r.namespace).Create(ctx, event, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
		r.t.Errorf("make event: %v", err)
	}
}

func (r *rig) spec() backing.Spec {
	return backing.Spec{
		Volume: volume, Site: "a", Group: "shop/db", Claim: "shop/data",
		VolumeBytes: 10 * gib, JournalBytes: 2 * gib, Class: r.class, New: true,
	}
}

func (r *rig) ensure(s backing.Spec) backing.Placement {
	r.t.Helper()
	p, err := r.claims.Ensure(r.t.Context(), s)
	r.check(err)
	return p
}

func (r *rig) claim(name string) *corev1.PersistentVolumeClaim {
	r.t.Helper()
	c, err := r.pvcs().Get(r.t.Context(), name, metav1.GetOptions{})
	r.check(err)
	return c
}

func (r *rig) store() *corev1.PersistentVolumeClaim { return r.claim(kubenames.BackingClaim(volume)) }

// awaitClaim returns a claim once it is as wanted.
func (r *rig) awaitClaim(name string, wanted func(*corev1.PersistentVolumeClaim) bool) *corev1.PersistentVolumeClaim {
	r.t.Helper()
	var found *corev1.PersistentVolumeClaim
	r.check(kubewait.Until(r.t.Context(), func(ctx context.Context) (bool, error) {
		var err error
		found, err = r.pvcs().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil && wanted(found), err
	}, kubewait.Named(r.pvcs(), name)))
	return found
}

// expectClaims compares the names of all claims in the namespace.
func (r *rig) expectClaims(names ...string) {
	r.t.Helper()
	list, err := r.pvcs().List(r.t.Context(), metav1.ListOptions{})
	r.check(err)
	var found []string
	for _, c := range list.Items {
		found = append(found, c.Name)
	}
	if strings.Join(found, " ") != strings.Join(names, " ") {
		r.t.Fatalf("claims %q, want %q", found, names)
	}
}

func (r *rig) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func quantity(bytes int64) resource.Quantity { return *resource.NewQuantity(bytes, resource.BinarySI) }

// briefly bounds a wait that a test expects to be in vain.
func briefly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}
