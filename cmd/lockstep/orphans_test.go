package main

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// own makes everything that a volume owns.
func (p *plugin) own(t *testing.T, volume, site string) {
	t.Helper()
	meta := func(name string) metav1.ObjectMeta {
		labels := map[string]string{kubenames.LabelVolume: volume}
		if site != "" {
			labels[kubenames.LabelSite] = site
		}
		return metav1.ObjectMeta{Name: name, Labels: labels, Annotations: map[string]string{kubenames.AnnotationClaim: "app/data"}}
	}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: meta(kubenames.BackingClaim(volume)), Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
	_, err := p.admin.Kube.CoreV1().PersistentVolumeClaims(p.driver).Create(t.Context(), claim, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: meta(kubenames.Engine(volume)), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "engine", Image: "x"}}}}
	if _, err := p.admin.Kube.CoreV1().Pods(p.driver).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	one := intstr.FromInt32(1)
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: meta(kubenames.Engine(volume)), Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &one}}
	if _, err := p.admin.Kube.PolicyV1().PodDisruptionBudgets(p.driver).Create(t.Context(), budget, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	lease := &coordinationv1.Lease{ObjectMeta: meta(kubenames.Engine(volume))}
	if _, err := p.admin.Kube.CoordinationV1().Leases(p.driver).Create(t.Context(), lease, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// left are the objects in the driver's namespace that nobody deletes, as
// KIND/NAME; a claim that is being deleted waits for controllers that do not
// run here.
func (p *plugin) left(t *testing.T) []string {
	t.Helper()
	owned, err := p.admin.Owned(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	claims, err := p.admin.Kube.CoreV1().PersistentVolumeClaims(p.driver).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range owned {
		deleted := slices.ContainsFunc(claims.Items, func(c corev1.PersistentVolumeClaim) bool { return c.UID == o.UID && c.DeletionTimestamp != nil })
		if !deleted {
			names = append(names, o.Kind+"/"+o.Name)
		}
	}
	slices.Sort(names)
	return names
}

// orphaned is a volume that the fake site does not know; v-0a1b is one that it
// does.
const orphaned = "00112233445566778899aabbccddeeff"

func objectsOf(volume string) []string {
	return []string{"Lease/engine-" + volume, "PersistentVolumeClaim/lockstep-" + volume, "Pod/engine-" + volume, "PodDisruptionBudget/engine-" + volume}
}

func newOrphans(t *testing.T) *plugin {
	p := newPlugin(t)
	p.own(t, "v-0a1b", "a")
	p.own(t, orphaned, "a")
	p.own(t, "elsewhere", "b")
	return p
}

func TestOrphansAreListed(t *testing.T) {
	p := newOrphans(t)
	before := p.left(t)
	got := strings.Fields(p.must(t, "orphans", "-o", "name"))
	// In the order of removal, and then the volume that has no claim.
	want := []string{"Pod/engine-" + orphaned, "PodDisruptionBudget/engine-" + orphaned, "Lease/engine-" + orphaned, "PersistentVolumeClaim/lockstep-" + orphaned, "Volume/pgwal"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	table := p.must(t, "orphans")
	if !strings.Contains(table, "app/data") || !strings.Contains(table, "has no claim") {
		t.Errorf("got\n%s", table)
	}
	if after := p.left(t); !slices.Equal(before, after) {
		t.Errorf("listing changed %v to %v", before, after)
	}
}

func TestOrphansAreRemoved(t *testing.T) {
	p := newOrphans(t)
	if got := p.run(t, "orphans", "--remove"); got.exit != exitUsage || !strings.Contains(got.stderr, "pass --yes") {
		t.Errorf("nobody to ask: exit %d: %s", got.exit, got.stderr)
	}
	p.terminals, p.stdin = atTerminal, strings.NewReader("n\n")
	got := p.run(t, "orphans", "--remove")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "Delete 4 objects") || !strings.Contains(got.stderr, "lockstep-"+orphaned) {
		t.Errorf("declined: exit %d: %s", got.exit, got.stderr)
	}
	if left := p.left(t); len(left) != 12 {
		t.Errorf("left: %v", left)
	}
	p.terminals = terminals{}
	out := p.must(t, "orphans", "--remove", "--yes")
	if strings.Count(out, "removed") != 4 {
		t.Errorf("got\n%s", out)
	}
	want := append(objectsOf("elsewhere"), objectsOf("v-0a1b")...)
	slices.Sort(want)
	if left := p.left(t); !slices.Equal(left, want) {
		t.Errorf("left %v, want %v", left, want)
	}
}

// TestNamedOrphansStay: a controller that has lost its catalog knows no volume, and what
// those have that are in use is not to go with one answer.
func TestNamedOrphansStay(t *testing.T) {
	p := newOrphans(t)
	const inUse = "ffeeddccbbaa99887766554433221100"
	p.own(t, inUse, "a")
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-in-use"}, Spec: corev1.PersistentVolumeSpec{
		Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
		AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi.lockstep.dev", VolumeHandle: inUse}}}}
	if _, err := p.admin.Kube.CoreV1().PersistentVolumes().Create(t.Context(), volume, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	before := p.left(t)
	if table := p.must(t, "orphans"); strings.Count(table, "pv-in-use names its volume") != 4 {
		t.Errorf("got\n%s", table)
	}
	got := p.run(t, "orphans", "--remove", "--yes")
	if got.exit != exitFailed || strings.Count(got.stdout, "pv-in-use names its volume") != 4 || strings.Count(got.stdout, "removed") != 4 ||
		!strings.Contains(got.stderr, "not everything was removed") {
		t.Errorf("exit %d: %s%s", got.exit, got.stdout, got.stderr)
	}
	gone := objectsOf(orphaned)
	want := slices.DeleteFunc(before, func(name string) bool { return slices.Contains(gone, name) })
	if left := p.left(t); !slices.Equal(left, want) {
		t.Errorf("left %v, want %v", left, want)
	}
}

// TestNoOrphansWithoutController: what nobody can vouch for is no orphan.
func TestNoOrphansWithoutController(t *testing.T) {
	p := newOrphans(t)
	p.stopController(t)
	got := p.run(t, "orphans", "--remove", "--yes")
	if got.exit != exitFailed || got.stdout != "" || !strings.Contains(got.stderr, "the controller cannot be reached") {
		t.Errorf("exit %d: %s%s", got.exit, got.stdout, got.stderr)
	}
	if left := p.left(t); len(left) != 12 {
		t.Errorf("left: %v", left)
	}
}

// TestOrphanThatWasAdopted: the controller is asked again after the question.
func TestOrphanThatWasAdopted(t *testing.T) {
	p := newOrphans(t)
	p.terminals, p.stdin = atTerminal, strings.NewReader("y\n")
	p.watch = func(text string) {
		if strings.HasPrefix(text, "Delete 4 objects") {
			p.site.adopt(orphaned)
		}
	}
	got := p.run(t, "orphans", "--remove")
	if got.exit != exitOK || strings.Count(got.stdout, "no orphan any more") != 4 {
		t.Errorf("exit %d: %s%s", got.exit, got.stdout, got.stderr)
	}
	if left := p.left(t); len(left) != 12 {
		t.Errorf("left: %v", left)
	}
}

// TestReplicasThatWereDeletedAtTheirPrimary: they are listed, and go only when they
// are told to.
func TestReplicasThatWereDeletedAtTheirPrimary(t *testing.T) {
	p := newPlugin(t)
	const replica = "ffeeddccbbaa99887766554433221100"
	p.own(t, "v-0a1b", "a")
	p.own(t, replica, "a")
	p.site.replicas = []string{replica}
	if got := strings.Fields(p.must(t, "orphans", "-o", "name")); !slices.Contains(got, "Replica/replica") {
		t.Errorf("listed are %v", got)
	}
	if table := p.must(t, "orphans"); !strings.Contains(table, "shop/lost") || !strings.Contains(table, "deleted at its primary") {
		t.Errorf("got\n%s", table)
	}
	p.terminals, p.stdin = atTerminal, strings.NewReader("n\n")
	got := p.run(t, "orphans", "--remove")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "Delete 1 replicas with all their points?") || len(p.site.replicas) != 1 {
		t.Errorf("declined: exit %d, %d replicas: %s", got.exit, len(p.site.replicas), got.stderr)
	}
	p.terminals = terminals{}
	if out := p.must(t, "orphans", "--remove", "--yes"); strings.Count(out, "removed") != 1 || len(p.site.replicas) != 0 {
		t.Errorf("%d replicas are left, and it says\n%s", len(p.site.replicas), out)
	}
}

// TestReplicasThatWereRemovedAreTold, also where the controller goes away before the rest.
func TestReplicasThatWereRemovedAreTold(t *testing.T) {
	p := newPlugin(t)
	const replica = "ffeeddccbbaa99887766554433221100"
	p.own(t, orphaned, "a")
	before := p.left(t)
	p.site.replicas, p.site.goesAfterRemoval = []string{replica}, status.Error(codes.Internal, "the catalog is closed")
	got := p.run(t, "orphans", "--remove", "--yes")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "the catalog is closed") {
		t.Errorf("exit %d: %s", got.exit, got.stderr)
	}
	if len(p.site.replicas) != 0 || strings.Count(got.stdout, "removed") != 1 || !strings.Contains(got.stdout, orphaned) {
		t.Errorf("%d replicas are left, and it says\n%s", len(p.site.replicas), got.stdout)
	}
	if after := p.left(t); !slices.Equal(before, after) {
		t.Errorf("without a controller it changed %v to %v", before, after)
	}
}
