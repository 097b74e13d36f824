package enginepod_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/lockstep-csi/lockstep/controller/enginepod"
	"github.com/lockstep-csi/lockstep/internal/apitest"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

const volume = "0123456789abcdef0123456789abcdef"

const template = `
apiVersion: v1
kind: PodTemplate
metadata: {name: engine}
template:
  metadata:
    labels: {team: storage}
  spec:
    terminationGracePeriodSeconds: 60
    tolerations: [{operator: Exists}]
    containers:
      - name: engine
        image: lockstep:test
        args: [engine, --listen=:7443]
`

// rig is a namespace in which the test plays scheduler and kubelet.
type rig struct {
	t       *testing.T
	server  *apitest.Server
	clock   *jumping
	client  kubernetes.Interface
	ns      string
	file    string
	engines *enginepod.Engines
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigOn(t, corev1.ReadWriteOnce)
}

// newRigOn has a backing claim of an access mode.
func newRigOn(t *testing.T, mode corev1.PersistentVolumeAccessMode) *rig {
	t.Helper()
	server := apitest.Start(t)
	r := &rig{t: t, server: server, client: server.Client(), ns: server.Namespace(t), file: filepath.Join(t.TempDir(), "pod.yaml"), clock: &jumping{}}
	r.template(template)
	r.claim(mode)
	var err error
	r.engines, err = enginepod.New(enginepod.Config{Client: r.client, Namespace: r.ns, Site: "a", Template: r.file, Port: 7443, Clock: r.clock})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) template(text string) {
	r.t.Helper()
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	r.t.Cleanup(cancel)
	return ctx
}

func spec(node string) enginepod.Spec {
	return enginepod.Spec{Volume: volume, Claim: "prod/data", Store: "lockstep-" + volume, Node: node}
}

// pod waits for the engine's pod.
func (r *rig) pod(ok func(*corev1.Pod) bool) *corev1.Pod {
	r.t.Helper()
	ctx := r.ctx()
	for {
		pod, err := r.client.CoreV1().Pods(r.ns).Get(ctx, enginepod.Name(volume), metav1.GetOptions{})
		if err == nil && ok(pod) {
			return pod
		}
		if err != nil && !apierrors.IsNotFound(err) {
			r.t.Fatal(err)
		}
	}
}

func exists(*corev1.Pod) bool { return true }

// run plays the scheduler and the kubelet: the pod runs on a node.
func (r *rig) run(pod *corev1.Pod, node string) {
	r.t.Helper()
	r.bind(pod, node)
	r.begin()
}

// bind plays the scheduler.
func (r *rig) bind(pod *corev1.Pod, node string) {
	r.t.Helper()
	err := r.client.CoreV1().Pods(r.ns).Bind(r.ctx(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID},
		Target: corev1.ObjectReference{Kind: "Node", Name: node}}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
}

// begin plays the kubelet: the engine's container runs.
func (r *rig) begin() {
	r.t.Helper()
	r.status(func(s *corev1.PodStatus) {
		s.Phase, s.PodIP, s.PodIPs = corev1.PodRunning, "10.0.0.7", []corev1.PodIP{{IP: "10.0.0.7"}}
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "engine", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	})
}

func (r *rig) status(edit func(*corev1.PodStatus)) {
	r.t.Helper()
	for {
		pod := r.pod(exists)
		edit(&pod.Status)
		_, err := r.client.CoreV1().Pods(r.ns).UpdateStatus(r.ctx(), pod, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			continue
		}
		if err != nil {
			r.t.Fatal(err)
		}
		return
	}
}

// confirm plays the kubelet that has ended a deleted pod's processes.
func (r *rig) confirm() {
	r.t.Helper()
	zero := int64(0)
	r.pod(func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if err := r.client.CoreV1().Pods(r.ns).Delete(r.ctx(), enginepod.Name(volume), metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		r.t.Fatal(err)
	}
}

type outcome struct {
	at  enginepod.Endpoint
	err error
}

func (r *rig) start(s enginepod.Spec) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		at, err := r.engines.Run(r.ctx(), s)
		done <- outcome{at, err}
	}()
	return done
}

func TestAnEnginePodIsWhatTheTemplateSaysAndNoMore(t *testing.T) {
	r := newRig(t)
	s := spec("node1")
	s.Journal, s.Lease, s.Attached = "lockstep-"+volume+"-journal", true, true
	r.claimNamed(s.Journal, r.pv()+"-journal", corev1.ReadWriteOnce)
	done := r.start(s)
	pod := r.pod(exists)
	r.run(pod, "node1")
	if out := <-done; out.err != nil || out.at.Address != "10.0.0.7:7443" || out.at.Node != "node1" {
		t.Fatalf("run: %+v", out)
	}
	args := strings.Join(pod.Spec.Containers[0].Args, " ")
	for _, want := range []string{"engine --listen=:7443", "--volume=" + volume, "--store-dir=/store", "--journal-dir=/journal", "--lease=engine-" + volume} {
		if !strings.Contains(args, want) {
			t.Errorf("arguments %q lack %q", args, want)
		}
	}
	if got := claimsOf(pod); got["/store"] != s.Store || got["/journal"] != s.Journal {
		t.Errorf("the pod mounts %v", got)
	}
	if pod.Labels["team"] != "storage" || pod.Labels["lockstep.dev/volume"] != volume || pod.Annotations["lockstep.dev/claim"] != "prod/data" {
		t.Errorf("labels %v, annotations %v", pod.Labels, pod.Annotations)
	}
	if pod.Spec.NodeName != "" {
		t.Errorf("the pod was bound to %s by name: its claim would never be", pod.Spec.NodeName)
	}
	budget, err := r.client.PolicyV1().PodDisruptionBudgets(r.ns).Get(r.ctx(), pod.Name, metav1.GetOptions{})
	if err != nil || budget.Spec.MinAvailable.IntValue() != 1 {
		t.Errorf("budget of an attached volume: %+v, %v", budget, err)
	}
	if _, err := r.client.CoordinationV1().Leases(r.ns).Get(r.ctx(), pod.Name, metav1.GetOptions{}); err != nil {
		t.Errorf("lease: %v", err)
	}
	// Again, and no longer attached.
	s.Attached = false
	if _, err := r.engines.Run(r.ctx(), s); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.PolicyV1().PodDisruptionBudgets(r.ns).Get(r.ctx(), pod.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("budget of a volume that is not attached: %v", err)
	}
}

// claimsOf are the claims that a pod's container mounts, by where.
func claimsOf(pod *corev1.Pod) map[string]string {
	at := map[string]string{}
	for _, m := range pod.Spec.Containers[0].VolumeMounts {
		for _, v := range pod.Spec.Volumes {
			if v.Name == m.Name && v.PersistentVolumeClaim != nil {
				at[m.MountPath] = v.PersistentVolumeClaim.ClaimName
			}
		}
	}
	return at
}

// Start tells of the node while the container has still to start, and not of one whose
// container has ended before.
func TestStartTellsWhereAnEngineIsBeforeItRuns(t *testing.T) {
	r := newRig(t)
	placed := make(chan string, 10)
	done := make(chan outcome, 1)
	start := func() {
		at, err := r.engines.Start(r.ctx(), spec("node1"), func(node string) { placed <- node })
		done <- outcome{at, err}
	}
	go start()
	pod := r.pod(exists)
	select {
	case node := <-placed:
		t.Fatalf("it is on %s before it was scheduled", node)
	default:
	}
	r.bind(pod, "node1")
	if node := <-placed; node != "node1" {
		t.Errorf("it is on %q", node)
	}
	select {
	case out := <-done:
		t.Fatalf("start of a pod that does not run: %+v", out)
	default:
	}
	r.begin()
	if out := <-done; out.err != nil || out.at.Node != "node1" {
		t.Fatalf("start: %+v", out)
	}
	r.status(func(s *corev1.PodStatus) {
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "engine", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}}}
	})
	r.pod(hasTerminated)
	start()
	if out := <-done; out.err != nil {
		t.Fatal(out.err)
	}
	if len(placed) > 0 {
		t.Error("it tells of an engine that has ended before as of one that is about to serve")
	}
}

func hasTerminated(p *corev1.Pod) bool {
	return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].LastTerminationState.Terminated != nil
}

func TestAnEngineElsewhereIsStoppedFirst(t *testing.T) {
	r := newRig(t)
	done := r.start(spec("node1"))
	r.run(r.pod(exists), "node1")
	<-done
	if _, err := r.engines.Run(r.ctx(), spec("node2")); !errors.Is(err, enginepod.ErrElsewhere) {
		t.Fatalf("run on another node: %v, want ErrElsewhere", err)
	}
	if out, err := r.engines.Run(r.ctx(), spec("")); err != nil || out.Node != "node1" {
		t.Errorf("run anywhere: %+v, %v", out, err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.engines.Stop(r.ctx(), volume) }()
	r.pod(func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	select {
	case err := <-stopped:
		t.Fatalf("stop returned before the kubelet confirmed: %v", err)
	default:
	}
	r.confirm()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if err := r.engines.Stop(r.ctx(), volume); err != nil {
		t.Errorf("stop again: %v", err)
	}
}

func TestAPodThatNeverRanFollowsItsVolume(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(r.ctx())
	gaveUp := make(chan error, 1)
	go func() { _, err := r.engines.Run(ctx, spec("node1")); gaveUp <- err }()
	first := r.pod(exists)
	r.status(func(s *corev1.PodStatus) {
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes are available"})
	})
	r.pod(func(p *corev1.Pod) bool { return len(p.Status.Conditions) > 0 })
	cancel()
	if err := <-gaveUp; err == nil {
		t.Fatal("run of a pod that does not run succeeded")
	}
	done := r.start(spec("node2"))
	second := r.pod(func(p *corev1.Pod) bool { return p.UID != first.UID })
	r.run(second, "node2")
	if out := <-done; out.err != nil || out.at.Node != "node2" {
		t.Errorf("run: %+v", out)
	}
}

func TestAnEvictedEngineIsReplaced(t *testing.T) {
	r := newRig(t)
	done := r.start(spec("node1"))
	first := r.pod(exists)
	r.run(first, "node1")
	<-done
	r.status(func(s *corev1.PodStatus) { s.Phase = corev1.PodFailed })
	done = r.start(spec("node1"))
	// What has ended needs no kubelet to confirm that it is deleted.
	second := r.pod(func(p *corev1.Pod) bool { return p.UID != first.UID })
	r.run(second, "node1")
	if out := <-done; out.err != nil {
		t.Error(out.err)
	}
}

// crash plays the kubelet of a container that ran for a time, ended, and is not
// started again yet.
func (r *rig) crash(ran time.Duration) {
	r.t.Helper()
	r.status(func(s *corev1.PodStatus) {
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "engine",
			State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
			LastTerminationState: killedAfter(ran, time.Now())}}
	})
}

// killedAfter is the end of a container that had run for a time.
func killedAfter(ran time.Duration, ended time.Time) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: 137, StartedAt: metav1.NewTime(ended.Add(-ran)), FinishedAt: metav1.NewTime(ended)}}
}

// endAgain is crash before the kubelet has said that it waits, of a container that had
// ended a time before that.
func (r *rig) endAgain(ran, since time.Duration) {
	r.t.Helper()
	r.status(func(s *corev1.PodStatus) {
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "engine", RestartCount: 1,
			State:                killedAfter(ran, time.Now()),
			LastTerminationState: killedAfter(time.Hour, time.Now().Add(-since))}}
	})
}

func TestAnEngineThatRanWellIsNotHeldBack(t *testing.T) {
	for name, crash := range map[string]func(*rig){
		"the kubelet waits":   func(r *rig) { r.crash(time.Minute) },
		"it is about to wait": func(r *rig) { r.endAgain(time.Minute, time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			done := r.start(spec("node1"))
			first := r.pod(exists)
			r.run(first, "node1")
			<-done
			crash(r)
			k := r.kubelet(first.Name)
			k.set(k.kept, first.Name, true)
			if _, err := r.engines.Run(r.ctx(), spec("node1")); err != nil {
				t.Error(err)
			}
			r.named(t, otherName, isRunning) // while the first one is not gone
			k.set(k.kept, first.Name, false)
			r.only(func(p *corev1.Pod) bool { return p.UID != first.UID })
		})
	}
}

func TestAnEngineIsLeftToTheKubelet(t *testing.T) {
	for name, c := range map[string]struct {
		crash func(*rig)
		says  string
	}{
		"ends at once":                 {func(r *rig) { r.crash(time.Second) }, "CrashLoopBackOff"},
		"ends at once again":           {func(r *rig) { r.endAgain(time.Second, time.Minute) }, ""},
		"ends again after a long time": {func(r *rig) { r.endAgain(time.Hour, 11*time.Minute) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			done := r.start(spec("node1"))
			first := r.pod(exists)
			r.run(first, "node1")
			<-done
			c.crash(r)
			r.expectRunWaits(spec("node1"), context.DeadlineExceeded, c.says)
			if now := r.pod(exists); now.UID != first.UID || now.DeletionTimestamp != nil {
				t.Error("the pod was replaced")
			}
		})
	}
}

func TestWhatAPodWaitsForIsSaid(t *testing.T) {
	for _, tt := range []struct {
		status corev1.PodStatus
		want   string
	}{
		{corev1.PodStatus{Phase: corev1.PodPending}, "it is pending"},
		{corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "no node"}}}, "it is not scheduled: Unschedulable: no node"},
		{corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}}}}}, "its container waits: ErrImagePull"},
	} {
		if got := enginepod.Waiting(&corev1.Pod{Status: tt.status}); got != tt.want {
			t.Errorf("waiting %q, want %q", got, tt.want)
		}
	}
}

func TestAForeignPodIsLeftAlone(t *testing.T) {
	r := newRig(t)
	_, err := r.client.CoreV1().Pods(r.ns).Create(r.ctx(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: enginepod.Name(volume)},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "engine", Image: "other"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.engines.Run(r.ctx(), spec("")); !errors.Is(err, enginepod.ErrForeign) {
		t.Errorf("run: %v, want ErrForeign", err)
	}
	if err := r.engines.Stop(r.ctx(), volume); !errors.Is(err, enginepod.ErrForeign) {
		t.Errorf("stop: %v, want ErrForeign", err)
	}
}

// TestKubeletIsNudged: a pod that has its node and does not start is changed, so that
// its kubelet looks again, as often as it takes.
func TestKubeletIsNudged(t *testing.T) {
	r := newRig(t)
	var err error
	r.engines, err = enginepod.New(enginepod.Config{Client: r.client, Namespace: r.ns, Site: "a", Template: r.file, Port: 7443, Clock: r.clock, Nudge: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	nudged := func(p *corev1.Pod) bool { return p.Annotations["lockstep.dev/nudged"] != "" }
	done := r.start(spec("node1"))
	pod := r.pod(exists)
	err = r.client.CoreV1().Pods(r.ns).Bind(r.ctx(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID},
		Target: corev1.ObjectReference{Kind: "Node", Name: "node1"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first := r.pod(nudged).Annotations["lockstep.dev/nudged"]
	r.pod(func(p *corev1.Pod) bool { return p.Annotations["lockstep.dev/nudged"] != first }) // and again
	r.status(func(s *corev1.PodStatus) {
		s.Phase, s.PodIP, s.PodIPs = corev1.PodRunning, "10.0.0.7", []corev1.PodIP{{IP: "10.0.0.7"}}
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "engine", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	})
	if out := <-done; out.err != nil || out.at.Node != "node1" {
		t.Fatalf("run: %+v", out)
	}
}
