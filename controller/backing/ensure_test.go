package backing_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/controller/backing"
	"github.com/lockstep-csi/lockstep/internal/apitest"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

func TestSizeBytes(t *testing.T) {
	if got := backing.SizeBytes(0); got != 64<<20 {
		t.Errorf("nothing needs %d", got)
	}
	if got, atLeast := backing.SizeBytes(12*gib), int64(12*gib+12*gib/100*3+64<<20); got < atLeast || got > atLeast+1<<20 || got%(1<<20) != 0 {
		t.Errorf("12 GiB need %d, want %d rounded up to a MiB", got, atLeast)
	}
}

func TestEnsureMakesABoundClaim(t *testing.T) {
	r := newRig(t)
	p := r.ensure(r.spec())
	if !p.Bound || p.Topology != nil || p.Fence != backing.FenceLease || len(p.Volumes) != 1 {
		t.Errorf("placement %+v, want a volume that can be used anywhere, with a lease", p)
	}
	claim := r.store()
	if claim.Spec.AccessModes[0] != corev1.ReadWriteOnce || *claim.Spec.VolumeMode != corev1.PersistentVolumeFilesystem {
		t.Errorf("claim asks for %+v", claim.Spec)
	}
	if got := claim.Spec.Resources.Requests.Storage().Value(); got != backing.SizeBytes(12*gib) {
		t.Errorf("claim asks for %d bytes", got)
	}
	wanted := map[string]string{
		kubenames.LabelVolume: volume, kubenames.LabelPart: "store", kubenames.LabelSite: "a",
		kubenames.LabelGroup: kubenames.GroupHash("shop/db"),
	}
	if !reflect.DeepEqual(claim.Labels, wanted) || claim.Annotations[kubenames.AnnotationClaim] != "shop/data" {
		t.Errorf("labels %v, annotations %v", claim.Labels, claim.Annotations)
	}
	if again := r.ensure(r.spec()); !reflect.DeepEqual(again, p) {
		t.Errorf("repeated: %+v, want %+v", again, p)
	}
	r.expectClaims(kubenames.BackingClaim(volume))
}

func TestCSIVolumesGetTheAttachmentFence(t *testing.T) {
	r := newRig(t)
	no := false
	for name, c := range map[string]struct {
		attach *bool
		want   backing.Fence
	}{"attached": {nil, backing.FenceAttachment}, "not attached": {&no, backing.FenceLease}} {
		t.Run(name, func(t *testing.T) {
			csi := r.client.StorageV1().CSIDrivers()
			_, err := csi.Create(t.Context(), &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: r.class}, Spec: storagev1.CSIDriverSpec{AttachRequired: c.attach}}, metav1.CreateOptions{})
			r.check(err)
			defer func() { r.check(csi.Delete(t.Context(), r.class, metav1.DeleteOptions{})) }()
			r.answerWith(func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) string {
				pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: r.class, VolumeHandle: pv.Name}
				return ""
			})
			p := r.ensure(r.spec())
			if p.Fence != c.want {
				t.Errorf("fence %s, want %s", p.Fence, c.want)
			}
			// An engine and its successor are two pods.
			if modes := r.store().Spec.AccessModes; len(modes) != 1 || modes[0] != corev1.ReadWriteOnce {
				t.Errorf("access modes %v, want ReadWriteOnce", modes)
			}
			r.check(r.claims.Delete(t.Context(), volume))
		})
	}
}

// local answers with a volume on the node that the claim names.
func local(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) string {
	node := claim.Annotations["volume.kubernetes.io/selected-node"]
	if node == "" {
		node = "n1"
	}
	pv.Spec.Local = &corev1.LocalVolumeSource{Path: "/x"}
	pv.Spec.NodeAffinity = affinity(corev1.NodeSelectorRequirement{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}})
	return ""
}

func affinity(terms ...corev1.NodeSelectorRequirement) *corev1.VolumeNodeAffinity {
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: terms}}}}
}

// makeNode makes a node, which Kubernetes wants to see before it lets a claim
// bind there.
func (r *rig) makeNode(name string) {
	r.t.Helper()
	nodes := r.client.CoreV1().Nodes()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	_, err := nodes.Create(r.t.Context(), node, metav1.CreateOptions{})
	r.check(err)
	r.t.Cleanup(func() { _ = nodes.Delete(context.WithoutCancel(r.t.Context()), name, metav1.DeleteOptions{}) })
}

func TestFirstConsumerClassIsToldTheNode(t *testing.T) {
	r := newRig(t, firstConsumer)
	r.answerWith(local)
	node := r.namespace + "-n2"
	r.makeNode(node)
	s := r.spec()
	s.Node = node
	p := r.ensure(s)
	if want := []map[string]string{{corev1.LabelHostname: node}}; !reflect.DeepEqual(p.Topology, want) || p.Fence != backing.FenceNode {
		t.Errorf("placement %+v, want %v", p, want)
	}
}

func TestFirstConsumerClassWithoutANodeWaitsForTheEngine(t *testing.T) {
	r := newRig(t, firstConsumer)
	if p := r.ensure(r.spec()); p.Bound {
		t.Errorf("bound to %v with no consumer", p.Volumes)
	}
	if node, ok := r.store().Annotations["volume.kubernetes.io/selected-node"]; ok {
		t.Errorf("claim names node %q", node)
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t)
	r.makeClass(r.namespace+".ours", driver)
	cases := map[string]struct {
		change func(*backing.Spec)
		want   error
	}{
		"no class":        {func(s *backing.Spec) { s.Class = "" }, backing.ErrInvalid},
		"missing class":   {func(s *backing.Spec) { s.Class = "none" }, backing.ErrClass},
		"class of ours":   {func(s *backing.Spec) { s.Class = r.namespace + ".ours" }, backing.ErrClass},
		"journal of ours": {func(s *backing.Spec) { s.JournalClass = r.namespace + ".ours" }, backing.ErrClass},
		"missing journal": {func(s *backing.Spec) { s.JournalClass = "none" }, backing.ErrClass},
		"no journal":      {func(s *backing.Spec) { s.JournalClass, s.JournalBytes = r.class, 0 }, backing.ErrInvalid},
		"volume":          {func(s *backing.Spec) { s.Volume = "x" }, backing.ErrInvalid},
		"size":            {func(s *backing.Spec) { s.VolumeBytes = 0 }, backing.ErrInvalid},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := r.spec()
			c.change(&s)
			if _, err := r.claims.Ensure(t.Context(), s); !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			r.expectClaims()
		})
	}
}

func TestOutOfSpaceLeavesNothingAndCanBeRepeated(t *testing.T) {
	r := newRig(t)
	const words = `failed to provision volume with StorageClass "x": rpc error: code = ResourceExhausted desc = pool is full`
	r.answerWith(refuse(words))
	_, err := r.claims.Ensure(t.Context(), r.spec())
	if !errors.Is(err, backing.ErrExhausted) || !strings.Contains(err.Error(), "pool is full") {
		t.Fatalf("got %v, want ErrExhausted with the provisioner's words", err)
	}
	r.expectClaims()
	r.answerWith(hostPath)
	if p := r.ensure(r.spec()); !p.Bound {
		t.Error("an old event kept the new claim from being bound")
	}
}

// Somebody has deleted the journal's claim of a volume that has data, and there
// is no room for another.
func TestARefusalDeletesNoClaimThatMayHaveData(t *testing.T) {
	r := newRig(t)
	r.ensure(r.spec())
	r.answerWith(refuse("pool is full"))
	s := r.spec()
	s.New, s.JournalClass = false, r.class
	if _, err := r.claims.Ensure(t.Context(), s); !errors.Is(err, backing.ErrExhausted) {
		t.Fatalf("got %v, want ErrExhausted", err)
	}
	r.expectClaims(kubenames.BackingClaim(volume))
}

func TestASlowProvisionerIsWaitedFor(t *testing.T) {
	r := newRig(t)
	r.answerWith(refuse("rpc error: code = DeadlineExceeded desc = context deadline exceeded"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := r.claims.Ensure(ctx, r.spec())
		ended <- err
	}()
	r.awaitClaim(kubenames.BackingClaim(volume), func(*corev1.PersistentVolumeClaim) bool { return true })
	<-briefly(t).Done() // the provisioner answers meanwhile
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want the end of the context", err)
	}
	before := r.store().UID
	r.answerWith(hostPath)
	r.ensure(r.spec())
	if r.store().UID != before {
		t.Error("the claim was made anew")
	}
}

func TestClaimDeletedInTheMiddle(t *testing.T) {
	r := newRig(t)
	r.answerWith(refuse("code = Aborted"))
	ended := make(chan error, 1)
	go func() {
		_, err := r.claims.Ensure(t.Context(), r.spec())
		ended <- err
	}()
	name := kubenames.BackingClaim(volume)
	r.awaitClaim(name, func(*corev1.PersistentVolumeClaim) bool { return true })
	r.check(r.pvcs().Delete(t.Context(), name, metav1.DeleteOptions{}))
	if err := <-ended; !errors.Is(err, backing.ErrDeleted) {
		t.Fatalf("got %v, want ErrDeleted", err)
	}
	r.answerWith(hostPath)
	r.ensure(r.spec())
}

func TestForeignClaimIsLeftAlone(t *testing.T) {
	r := newRig(t)
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: kubenames.BackingClaim(volume)},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &r.class,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: quantity(gib)}},
		},
	}
	_, err := r.pvcs().Create(t.Context(), claim, metav1.CreateOptions{})
	r.check(err)
	if _, err := r.claims.Ensure(t.Context(), r.spec()); !errors.Is(err, backing.ErrForeign) {
		t.Errorf("ensure: %v, want ErrForeign", err)
	}
	if err := r.claims.Delete(t.Context(), volume); !errors.Is(err, backing.ErrForeign) {
		t.Errorf("delete: %v, want ErrForeign", err)
	}
	r.expectClaims(claim.Name)
}

func TestInexpressibleTopologyIsRefused(t *testing.T) {
	r := newRig(t)
	r.answerWith(func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) string {
		pv.Spec.HostPath = &corev1.HostPathVolumeSource{Path: "/x"}
		pv.Spec.NodeAffinity = affinity(corev1.NodeSelectorRequirement{Key: "disk", Operator: corev1.NodeSelectorOpExists})
		return ""
	})
	if _, err := r.claims.Ensure(t.Context(), r.spec()); !errors.Is(err, backing.ErrTopology) {
		t.Fatalf("got %v, want ErrTopology", err)
	}
	r.expectClaims()
}

func TestJournalOnAClaimOfItsOwn(t *testing.T) {
	r := newRig(t)
	s := r.spec()
	s.JournalClass = r.class
	r.ensure(s)
	r.expectClaims(kubenames.BackingClaim(volume), kubenames.JournalClaim(volume))
	for name, want := range map[string]int64{
		kubenames.BackingClaim(volume): backing.SizeBytes(10 * gib), kubenames.JournalClaim(volume): backing.JournalSizeBytes(2 * gib),
	} {
		if got := r.claim(name).Spec.Resources.Requests.Storage().Value(); got != want {
			t.Errorf("%s asks for %d, want %d", name, got, want)
		}
	}
	list, err := r.claims.List(t.Context())
	r.check(err)
	if len(list) != 2 || list[0].Part != "store" || list[1].Part != "journal" || list[0].For != "shop/data" || list[0].Phase != "Bound" {
		t.Errorf("listed %+v", list)
	}
	r.check(r.claims.Delete(t.Context(), volume))
	r.expectClaims()
}

// Both claims of classes that bind at first consumer are told the node, and the
// volume is where both are.
func TestJournalAndStoreAreToldTheNode(t *testing.T) {
	r := newRig(t, firstConsumer)
	r.answerWith(local)
	s := r.spec()
	s.Node, s.JournalClass = r.namespace+"-n3", r.class
	r.makeNode(s.Node)
	p := r.ensure(s)
	if want := []map[string]string{{corev1.LabelHostname: s.Node}}; !reflect.DeepEqual(p.Topology, want) || p.Fence != backing.FenceNode || len(p.Volumes) != 2 {
		t.Errorf("placement %+v, want %v", p, want)
	}
	for _, name := range []string{kubenames.BackingClaim(volume), kubenames.JournalClaim(volume)} {
		if got := r.claim(name).Annotations["volume.kubernetes.io/selected-node"]; got != s.Node {
			t.Errorf("%s is told node %q", name, got)
		}
	}
}

// With no node chosen the journal's claim waits for the engine although the
// store's need not: the engine's scheduler sees to both.
func TestJournalOfAClassThatWaitsForTheEngine(t *testing.T) {
	r := newRig(t)
	slow := r.namespace + ".slow"
	r.makeClass(slow, r.class, firstConsumer)
	s := r.spec()
	s.JournalClass = slow
	if p := r.ensure(s); p.Bound {
		t.Errorf("placement %+v, want one that waits", p)
	}
	r.expectClaims(kubenames.BackingClaim(volume), kubenames.JournalClaim(volume))
}

// No room for the journal's claim: nothing of the new volume is left.
func TestNoRoomForTheJournalLeavesNothing(t *testing.T) {
	r := newRig(t)
	r.answerWith(func(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) string {
		if claim.Labels[kubenames.LabelPart] == kubenames.PartJournal {
			return "rpc error: code = ResourceExhausted desc = the fast pool is full"
		}
		return hostPath(claim, pv)
	})
	s := r.spec()
	s.JournalClass = r.class
	if _, err := r.claims.Ensure(t.Context(), s); !errors.Is(err, backing.ErrExhausted) || !strings.Contains(err.Error(), "fast pool") {
		t.Fatalf("got %v, want ErrExhausted", err)
	}
	r.expectClaims()
}

func TestJournalFarFromItsStoreIsRefused(t *testing.T) {
	r := newRig(t)
	r.answerWith(func(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) string {
		zone := "zone-" + claim.Labels[kubenames.LabelPart]
		pv.Spec.HostPath = &corev1.HostPathVolumeSource{Path: "/x"}
		pv.Spec.NodeAffinity = affinity(corev1.NodeSelectorRequirement{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{zone}})
		return ""
	})
	s := r.spec()
	s.JournalClass = r.class
	if _, err := r.claims.Ensure(t.Context(), s); !errors.Is(err, backing.ErrTopology) {
		t.Fatalf("got %v, want ErrTopology", err)
	}
	r.expectClaims()
}

// A controller that is cut off at any write leaves nothing that the next one
// does not find, be it to go on or to clean up.
func TestCutOffAtEveryWrite(t *testing.T) {
	r := newRig(t)
	s := r.spec()
	s.JournalClass = r.class
	const writes = 2 // the claims
	for at := 1; at <= writes; at++ {
		for _, kind := range []apitest.Kind{apitest.Unsent, apitest.Unanswered} {
			for _, goOn := range []bool{true, false} {
				t.Run(fmt.Sprintf("%v-%d-%v", kind, at, goOn), func(t *testing.T) {
					client, fault, err := r.server.Fault()
					r.check(err)
					fault.BreakWrite(at, kind, at+1)
					if _, err := r.claimsOf(client).Ensure(t.Context(), s); err == nil {
						t.Fatalf("Ensure has not needed write %d", at)
					}
					if goOn {
						r.ensure(s)
						r.expectClaims(kubenames.BackingClaim(volume), kubenames.JournalClaim(volume))
					}
					r.check(r.claims.Delete(t.Context(), volume))
					r.expectClaims()
				})
			}
		}
	}
}

// A volume that has moved to another group says so, and nothing else of its
// claim changes.
func TestLabelFollowsTheGroup(t *testing.T) {
	r := newRig(t)
	s := r.spec()
	r.check(r.claims.Label(t.Context(), s)) // of no claim
	r.ensure(s)
	before := r.store()
	s.Group = "shop/other"
	for range 2 {
		r.check(r.claims.Label(t.Context(), s))
		after := r.store()
		if after.Labels[kubenames.LabelGroup] != kubenames.GroupHash("shop/other") || after.Annotations[kubenames.AnnotationGroup] != "shop/other" {
			t.Errorf("labels %v, annotations %v", after.Labels, after.Annotations)
		}
		after.Labels[kubenames.LabelGroup], after.Annotations[kubenames.AnnotationGroup] = before.Labels[kubenames.LabelGroup], before.Annotations[kubenames.AnnotationGroup]
		if !reflect.DeepEqual(after.Spec, before.Spec) || !reflect.DeepEqual(after.Labels, before.Labels) || !reflect.DeepEqual(after.Annotations, before.Annotations) {
			t.Errorf("more than the group has changed: %+v", after)
		}
	}
}
