package enginepod_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/controller/enginepod"
	"github.com/lockstep-csi/lockstep/engine/lease"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// jumping is a lease's clock that stands still but when a test lets it jump.
type jumping struct {
	clock.Wall
	mu sync.Mutex // guards at
	at time.Duration
}

func (j *jumping) Uptime() time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.at
}

func (j *jumping) jump(d time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.at += d
}

func (r *rig) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// pv is the backing volume, node a node's name, that no other test has: neither
// has a namespace.
func (r *rig) pv() string              { return "pv-" + r.ns }
func (r *rig) node(name string) string { return r.ns + "-" + name }

// claim makes the volume's backing claim, bound.
func (r *rig) claim(mode corev1.PersistentVolumeAccessMode) {
	r.t.Helper()
	r.claimNamed(kubenames.BackingClaim(volume), r.pv(), mode)
}

// claimNamed makes a claim that is bound to a volume.
func (r *rig) claimNamed(name, pv string, mode corev1.PersistentVolumeAccessMode) {
	r.t.Helper()
	_, err := r.client.CoreV1().PersistentVolumeClaims(r.ns).Create(r.ctx(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{mode}, VolumeName: pv,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}, metav1.CreateOptions{})
	r.check(err)
}

// attach plays the controller that attaches; the returned function detaches.
func (r *rig) attach(node string) (detach func()) {
	r.t.Helper()
	attachments, pv := r.client.StorageV1().VolumeAttachments(), r.pv()
	_, err := attachments.Create(r.ctx(), &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: "csi-" + node},
		Spec:       storagev1.VolumeAttachmentSpec{Attacher: "x", NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv}},
	}, metav1.CreateOptions{})
	r.check(err)
	return func() {
		r.t.Helper()
		r.check(attachments.Delete(r.ctx(), "csi-"+node, metav1.DeleteOptions{}))
	}
}

// serve has an engine run on the node that it is wanted on.
func (r *rig) serve(s enginepod.Spec) {
	r.t.Helper()
	done := r.start(s)
	r.run(r.pod(exists), s.Node)
	r.check((<-done).err)
}

// expectWait makes a call that waits in vain, and is to end with want and name what
// it waits for once its time is over. On a busy machine that may be before it has
// come to the wait: then it gets longer.
func (r *rig) expectWait(want error, what string, call func(context.Context) error) {
	r.t.Helper()
	for patience := 300 * time.Millisecond; ; patience *= 2 {
		ctx, cancel := context.WithTimeout(r.ctx(), patience)
		err := call(ctx)
		cancel()
		switch {
		case errors.Is(err, want) && strings.Contains(err.Error(), what):
			return
		case patience > 10*time.Second || !errors.Is(err, context.DeadlineExceeded):
			r.t.Fatalf("got %v, want %v that names %q", err, want, what)
		}
	}
}

func (r *rig) expectStopWaits(what string) {
	r.t.Helper()
	r.expectWait(enginepod.ErrNotFenced, what, func(ctx context.Context) error { return r.engines.Stop(ctx, volume) })
}

func (r *rig) expectRunWaits(s enginepod.Spec, want error, what string) {
	r.t.Helper()
	r.expectWait(want, what, func(ctx context.Context) error {
		_, err := r.engines.Run(ctx, s)
		return err
	})
}

// The rows of the fence, in their order.
func TestStopWaitsForEachPartOfTheFence(t *testing.T) {
	r := newRig(t)
	r.serve(spec(r.node("n1")))
	detach := r.attach(r.node("n1"))
	r.expectStopWaits("not gone from node " + r.node("n1"))
	pod := r.pod(func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if *pod.DeletionGracePeriodSeconds != 60 {
		t.Errorf("deleted with %d seconds of grace, want the template's", *pod.DeletionGracePeriodSeconds)
	}
	r.confirm()
	r.expectStopWaits("to node " + r.node("n1"))
	detach()
	r.check(r.engines.Stop(r.ctx(), volume))
	r.serve(spec(r.node("n2")))
}

// A pod that somebody removed by force has left its volume attached elsewhere.
func TestNoEngineWhileAnotherNodeHasTheVolume(t *testing.T) {
	r := newRig(t)
	detach := r.attach(r.node("old"))
	r.expectRunWaits(spec(r.node("n1")), enginepod.ErrNotFenced, r.node("old"))
	if _, err := r.client.CoreV1().Pods(r.ns).Get(r.ctx(), enginepod.Name(volume), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("get pod: %v, want that there is none", err)
	}
	detach()
	r.attach(r.node("n1")) // its own node's is not in the way
	r.serve(spec(r.node("n1")))
}

func TestANodeThatDoesNotAnswerIsNamedWithWhatToDo(t *testing.T) {
	r := newRig(t)
	nodes := r.client.CoreV1().Nodes()
	node, err := nodes.Create(r.ctx(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.node("n1")}}, metav1.CreateOptions{})
	r.check(err)
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, LastTransitionTime: metav1.Now()}}
	_, err = nodes.UpdateStatus(r.ctx(), node, metav1.UpdateOptions{})
	r.check(err)
	r.serve(spec(r.node("n1")))
	r.expectStopWaits("out-of-service")
}

func TestAnEngineNeedsItsClaim(t *testing.T) {
	r := newRig(t)
	s := spec(r.node("n1"))
	s.Store = "none"
	if _, err := r.engines.Run(r.ctx(), s); !errors.Is(err, enginepod.ErrNoClaim) {
		t.Fatalf("got %v, want ErrNoClaim", err)
	}
	s = spec(s.Node)
	s.Journal = kubenames.JournalClaim(volume)
	if _, err := r.engines.Run(r.ctx(), s); !errors.Is(err, enginepod.ErrNoClaim) || !strings.Contains(err.Error(), s.Journal) {
		t.Fatalf("without the journal's: got %v, want ErrNoClaim", err)
	}
}

// The journal's volume is as much a part of the fence as the store's.
func TestNoEngineWhileAnotherNodeHasTheJournal(t *testing.T) {
	r := newRig(t)
	s := spec(r.node("n1"))
	s.Journal = kubenames.JournalClaim(volume)
	pv := r.pv() + "-journal"
	r.claimNamed(s.Journal, pv, corev1.ReadWriteOnce)
	attachments := r.client.StorageV1().VolumeAttachments()
	_, err := attachments.Create(r.ctx(), &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: "csi-journal-" + r.ns},
		Spec:       storagev1.VolumeAttachmentSpec{Attacher: "x", NodeName: r.ns + "-n2", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv}},
	}, metav1.CreateOptions{})
	r.check(err)
	r.expectRunWaits(s, enginepod.ErrNotFenced, pv)
	r.check(attachments.Delete(r.ctx(), "csi-journal-"+r.ns, metav1.DeleteOptions{}))
	r.serve(s)
}

func TestAJournalForOnePodIsNotShared(t *testing.T) {
	r := newRig(t)
	s := spec(r.node("n1"))
	s.Journal = kubenames.JournalClaim(volume)
	r.claimNamed(s.Journal, r.pv()+"-journal", corev1.ReadWriteOncePod)
	r.kubelet()
	if got := argument(r.served(s), "--handover-wait"); got != "" {
		t.Errorf("it is to wait %s for a successor that cannot come", got)
	}
}

// hold writes a holder into the lease, as an engine does.
func (r *rig) hold(holder string) {
	r.t.Helper()
	leases := r.client.CoordinationV1().Leases(r.ns)
	object, err := leases.Get(r.ctx(), enginepod.Name(volume), metav1.GetOptions{})
	r.check(err)
	now := metav1.NowMicro()
	object.Spec.HolderIdentity, object.Spec.RenewTime = &holder, &now
	_, err = leases.Update(r.ctx(), object, metav1.UpdateOptions{})
	r.check(err)
}

func (r *rig) holder() string {
	r.t.Helper()
	object, err := r.client.CoordinationV1().Leases(r.ns).Get(r.ctx(), enginepod.Name(volume), metav1.GetOptions{})
	r.check(err)
	if object.Spec.HolderIdentity == nil {
		return ""
	}
	return *object.Spec.HolderIdentity
}

// forced has an engine with a lease run, and its pod removed by force: nobody
// knows whether it still runs.
func forced(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	s := spec(r.node("n1"))
	s.Lease = true
	r.serve(s)
	r.hold("old")
	zero := int64(0)
	r.check(r.client.CoreV1().Pods(r.ns).Delete(r.ctx(), enginepod.Name(volume), metav1.DeleteOptions{GracePeriodSeconds: &zero}))
	return r
}

func (r *rig) stopping() <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- r.engines.Stop(r.ctx(), volume) }()
	return ended
}

func TestStopWaitsForTheLeaseAndReleasesIt(t *testing.T) {
	r := forced(t)
	r.expectStopWaits("lease")
	ended := r.stopping()
	// The clock has to jump after the lease was seen, and when it is looked at
	// is Stop's business.
	for {
		select {
		case err := <-ended:
			r.check(err)
			if r.clock.Uptime() < lease.Takeover {
				t.Errorf("taken over after %v", r.clock.Uptime())
			}
			if holder := r.holder(); holder != "" {
				t.Errorf("lease is held by %q", holder)
			}
			return
		case <-time.After(200 * time.Millisecond):
			r.clock.jump(10 * time.Second)
		}
	}
}

// The lease of a lost node ages while Kubernetes still has the pod.
func TestTheLeaseAgesWhileThePodIsWaitedFor(t *testing.T) {
	r := newRig(t)
	s := spec(r.node("n1"))
	s.Lease = true
	r.serve(s)
	r.hold("old")
	ended := r.stopping()
	r.pod(func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil }) // the lease was seen before
	r.clock.jump(lease.Takeover)
	zero := int64(0)
	r.check(r.client.CoreV1().Pods(r.ns).Delete(r.ctx(), enginepod.Name(volume), metav1.DeleteOptions{GracePeriodSeconds: &zero}))
	r.check(<-ended) // which the clock, standing still from here on, would keep for ever
	if holder := r.holder(); holder != "" {
		t.Errorf("lease is held by %q", holder)
	}
}

func TestAHolderThatRenewsIsNotTakenOver(t *testing.T) {
	r := forced(t)
	ended := r.stopping()
	for range 12 {
		r.clock.jump(lease.RenewEvery)
		r.hold("alive")
	}
	select {
	case err := <-ended:
		t.Fatalf("Stop ended with %v although the holder renews", err)
	default:
	}
	r.hold("") // it ends at last
	r.check(<-ended)
}

// kubectl drain refuses pods without a controller, and the budget keeps the
// engine of an attached volume.
func TestDrain(t *testing.T) {
	r := newRig(t)
	r.server.StartControllers(t, "disruption-controller")
	_, err := r.client.CoreV1().Nodes().Create(r.ctx(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.node("n1")}}, metav1.CreateOptions{})
	r.check(err)
	s := spec(r.node("n1"))
	s.Attached = true
	r.serve(s)
	r.status(func(status *corev1.PodStatus) {
		status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	})
	out, err := r.server.Kubectl(t, "drain", r.node("n1"), "--timeout=2s")
	if err == nil || !strings.Contains(out, "disruption budget") {
		t.Fatalf("drain of an attached volume's engine: %v\n%s", err, out)
	}
	s.Attached = false
	_, err = r.engines.Run(r.ctx(), s)
	r.check(err)
	out, err = r.server.Kubectl(t, "drain", r.node("n1"), "--timeout=2s")
	if err == nil || strings.Contains(out, "cannot delete") {
		t.Fatalf("drain without a budget: %v\n%s", err, out)
	}
	r.pod(func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil }) // the test is the kubelet
}
