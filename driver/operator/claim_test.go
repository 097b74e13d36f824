package operator

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/replication"
)

func (c *cluster) claims() *Claims {
	c.t.Helper()
	claims, err := NewClaims(c.server.Config())
	if err != nil {
		c.t.Fatal(err)
	}
	return claims
}

func annotated(name string) map[string]string { return map[string]string{AnnotationGroup: name} }

func owned(pod *corev1.Pod, owner client.Object, kind string, version string) *corev1.Pod {
	yes := true
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: version, Kind: kind, Name: owner.GetName(), UID: owner.GetUID(), Controller: &yes}}
	return pod
}

// The nearest annotation decides: claim, pod, its owners upwards, namespace, and
// without any the claim is alone.
func TestTheNearestAnnotationNamesTheGroup(t *testing.T) {
	labels := map[string]string{"app": "x"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()}
	template.Spec.RestartPolicy = corev1.RestartPolicyNever
	always := template.DeepCopy()
	always.Spec.RestartPolicy = corev1.RestartPolicyAlways
	selector := &metav1.LabelSelector{MatchLabels: labels}
	deployment := func(c *cluster, group map[string]string) (*appsv1.Deployment, *appsv1.ReplicaSet) {
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: group}, Spec: appsv1.DeploymentSpec{Selector: selector, Template: *always}}
		c.make(d)
		rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web-1", OwnerReferences: []metav1.OwnerReference{
			*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}}, Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: *always}}
		c.make(rs)
		return d, rs
	}
	tests := []struct {
		name    string
		prepare func(c *cluster, claim *corev1.PersistentVolumeClaim)
		want    string
		invalid string // what the error says
	}{
		{"nothing", func(*cluster, *corev1.PersistentVolumeClaim) {}, "data", ""},
		{"class", func(c *cluster, claim *corev1.PersistentVolumeClaim) {
			c.make(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "grouped"}, Provisioner: "csi.lockstep.dev",
				Parameters: map[string]string{controller.ParameterGroup: "classes"}})
			grouped := "grouped"
			claim.Spec.StorageClassName = &grouped
		}, "classes", ""},
		{"claim", func(c *cluster, claim *corev1.PersistentVolumeClaim) {
			claim.Annotations = annotated("mine")
			pod := podNamed("p", "data")
			pod.Annotations = annotated("pods")
			c.make(pod)
		}, "mine", ""},
		{"pod before owner", func(c *cluster, _ *corev1.PersistentVolumeClaim) {
			_, rs := deployment(c, annotated("deployments"))
			pod := owned(podNamed("p", "data"), rs, "ReplicaSet", "apps/v1")
			pod.Annotations = annotated("pods")
			c.make(pod)
		}, "pods", ""},
		{"Deployment", func(c *cluster, _ *corev1.PersistentVolumeClaim) {
			_, rs := deployment(c, annotated("shop"))
			c.make(owned(podNamed("p", "data"), rs, "ReplicaSet", "apps/v1"))
		}, "shop", ""},
		{"CronJob", func(c *cluster, _ *corev1.PersistentVolumeClaim) {
			cron := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "night", Annotations: annotated("nightly")},
				Spec: batchv1.CronJobSpec{Schedule: "0 0 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template}}}}
			c.make(cron)
			plain := template.DeepCopy()
			plain.Labels = nil
			job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "night-1", OwnerReferences: []metav1.OwnerReference{
				*metav1.NewControllerRef(cron, batchv1.SchemeGroupVersion.WithKind("CronJob"))}}, Spec: batchv1.JobSpec{Template: *plain}}
			c.make(job)
			c.make(owned(podNamed("p", "data"), job, "Job", "batch/v1"))
		}, "nightly", ""},
		{"an owner of an unknown kind", func(c *cluster, _ *corev1.PersistentVolumeClaim) {
			c.make(owned(podNamed("p", "data"), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x", UID: "x"}}, "Dragon", "example.org/v1"))
		}, "data", ""},
		{"an owner that is gone", func(c *cluster, _ *corev1.PersistentVolumeClaim) {
			other := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web-1", Annotations: annotated("another")}, Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: *always}}
			c.make(other)
			gone := other.DeepCopy()
			gone.UID = "gone"
			c.make(owned(podNamed("p", "data"), gone, "ReplicaSet", "apps/v1"))
		}, "data", ""},
		{"namespace", func(c *cluster, _ *corev1.PersistentVolumeClaim) {
			c.annotateNamespace("all")
			c.make(podNamed("p", "data"))
		}, "all", ""},
		{"owner before namespace", func(c *cluster, _ *corev1.PersistentVolumeClaim) {
			c.annotateNamespace("all")
			_, rs := deployment(c, annotated("shop"))
			c.make(owned(podNamed("p", "data"), rs, "ReplicaSet", "apps/v1"))
		}, "shop", ""},
		{"a pod of another claim", func(c *cluster, _ *corev1.PersistentVolumeClaim) {
			pod := podNamed("p", "other")
			pod.Annotations = annotated("pods")
			c.make(pod)
		}, "data", ""},
		{"a pod that has ended", func(c *cluster, _ *corev1.PersistentVolumeClaim) {
			pod := podNamed("p", "data")
			pod.Annotations = annotated("pods")
			c.make(pod)
			pod.Status.Phase = corev1.PodSucceeded
			if err := c.Status().Update(c.t.Context(), pod); err != nil {
				c.t.Fatal(err)
			}
		}, "data", ""},
		{"two pods that differ", func(c *cluster, _ *corev1.PersistentVolumeClaim) {
			for _, name := range []string{"a", "b"} {
				pod := podNamed(name, "data")
				pod.Annotations = annotated("pods-" + name)
				c.make(pod)
			}
		}, "", "pods-a by pod a and pods-b by pod b"},
		{"no label", func(_ *cluster, claim *corev1.PersistentVolumeClaim) { claim.Annotations = annotated("Shop_1") }, "", `of claim`},
		{"a namespace's that is no label", func(c *cluster, _ *corev1.PersistentVolumeClaim) { c.annotateNamespace("a/b") }, "", "of namespace"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			claim := claimNamed("data")
			tt.prepare(c, claim)
			c.make(claim)
			got, err := c.claims().Claim(t.Context(), c.namespace, "data")
			if tt.invalid != "" {
				if !errors.Is(err, controller.ErrInvalid) || !strings.Contains(err.Error(), tt.invalid) {
					t.Errorf("got %v, want ErrInvalid that says %q", err, tt.invalid)
				}
				return
			}
			if err != nil || got.Group != c.namespace+"/"+tt.want {
				t.Errorf("got %q, %v; want %q", got.Group, err, tt.want)
			}
		})
	}
}

func (c *cluster) annotateNamespace(name string) {
	c.t.Helper()
	var ns corev1.Namespace
	if err := c.Get(c.t.Context(), client.ObjectKey{Name: c.namespace}, &ns); err != nil {
		c.t.Fatal(err)
	}
	ns.Annotations = annotated(name)
	c.update(&ns)
}

func TestClaim(t *testing.T) {
	c := newCluster(t)
	claim := claimNamed("data")
	block := corev1.PersistentVolumeBlock
	claim.Spec.VolumeMode = &block
	claim.Labels = map[string]string{"app": "shop", "private": "x"}
	claim.Annotations = map[string]string{AnnotationGroup: "shop", AnnotationAsOf: "2026-11-22T10:41:07Z", AnnotationMember: "log", annotationSelectedNode: "node-7"}
	c.make(claim)
	c.make(&v1alpha1.ConsistencyGroup{ObjectMeta: metav1.ObjectMeta{Name: "shop"}, Spec: v1alpha1.ConsistencyGroupSpec{Window: "7d"}})
	got, err := c.claims().Claim(t.Context(), c.namespace, "data")
	if err != nil {
		t.Fatal(err)
	}
	if got.Settings == nil || got.Settings.Window != 7*24*time.Hour || got.Settings.CheckpointInterval != 0 || got.AsOf != "2026-11-22T10:41:07Z" || got.Member != c.namespace+"/log" || got.Node != "node-7" {
		t.Errorf("%+v, settings %+v", got, got.Settings)
	}
	want := map[string]string{replication.AttributeNamespace: c.namespace, replication.AttributeName: "data", replication.AttributeClass: "journaled",
		replication.AttributeAccessModes: "ReadWriteOnce", replication.AttributeVolumeMode: "Block", "label:app": "shop"}
	for key, value := range want {
		if got.Attributes[key] != value {
			t.Errorf("attribute %s is %q, want %q", key, got.Attributes[key], value)
		}
	}
	if len(got.Attributes) != len(want) {
		t.Errorf("attributes %v", got.Attributes)
	}
	if _, err := c.claims().Claim(t.Context(), c.namespace, "none"); !errors.Is(err, controller.ErrNotFound) {
		t.Errorf("no claim: %v", err)
	}
	claim.Annotations[AnnotationMember] = "other/log"
	c.update(claim)
	if _, err := c.claims().Claim(t.Context(), c.namespace, "data"); !errors.Is(err, controller.ErrInvalid) {
		t.Errorf("a member elsewhere: %v", err)
	}
}

// Labels that find no room beside what a claim needs stay behind.
func TestAttributesKeepTheirLimit(t *testing.T) {
	claim := claimNamed(strings.Repeat("n", 253))
	claim.Namespace = strings.Repeat("s", 63)
	long := strings.Repeat("c", 253)
	claim.Spec.StorageClassName = &long
	claim.Labels = map[string]string{}
	for _, key := range carriedLabels {
		claim.Labels[key] = strings.Repeat("v", 63)
	}
	got := attributesOf(claim)
	if err := replication.CheckAttributes(withRoom(got)); err != nil {
		t.Error(err)
	}
	if got[replication.AttributeName] != claim.Name || got["label:app"] == "" {
		t.Errorf("%v", got)
	}
}

// A claim that is a group of its own has a group whose name no checkpoint can carry, if its
// own name is long enough: it is refused, and not made a volume without recovery points.
func TestAClaimWhoseNameIsTooLongForAGroup(t *testing.T) {
	c := newCluster(t)
	room := replication.MaxNameBytes - len(c.namespace) - 1
	fits, long := claimNamed(strings.Repeat("n", room)), claimNamed(strings.Repeat("n", room+1))
	c.make(fits)
	c.make(long)
	if got, err := c.claims().Claim(t.Context(), c.namespace, fits.Name); err != nil || len(got.Group) != replication.MaxNameBytes {
		t.Errorf("%+v, %v", got, err)
	}
	_, err := c.claims().Claim(t.Context(), c.namespace, long.Name)
	if !errors.Is(err, controller.ErrInvalid) || !strings.Contains(err.Error(), AnnotationGroup) {
		t.Errorf("a name that is too long: %v, want ErrInvalid that names the annotation", err)
	}
	long.Annotations = annotated("shop")
	c.update(long)
	if got, err := c.claims().Claim(t.Context(), c.namespace, long.Name); err != nil || got.Group != c.namespace+"/shop" {
		t.Errorf("with a group: %+v, %v", got, err)
	}
}

// podless is an API server that does not list pods at the moment.
type podless struct{ client.Client }

func (p podless) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	if _, pods := list.(*corev1.PodList); pods {
		return errors.New("the connection was reset")
	}
	return p.Client.List(ctx, list, options...)
}

// An API server that does not answer is no reason to give a volume up: the provisioner
// is to ask again, and forgets what it asked for with any other answer.
func TestAClaimThatCannotBeJudgedNow(t *testing.T) {
	c := newCluster(t)
	c.make(claimNamed("data"))
	claims := &Claims{podless{c.Client}}
	if _, err := claims.Claim(t.Context(), c.namespace, "data"); !errors.Is(err, controller.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}
