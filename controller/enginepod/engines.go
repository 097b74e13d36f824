package enginepod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Engines runs engines as pods. Its methods may be called concurrently, but not
// two that concern one volume, except that List may always be.
type Engines struct{ cfg Config }

// New makes Engines; nothing is done before the first call.
func New(cfg Config) (*Engines, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Engines{cfg: cfg}, nil
}

// Run has the engine's pod run and returns where it is once its container
// does. ErrElsewhere if there is one on another node. It waits as long as ctx
// allows; the error then says what the pod is waiting for. Idempotent.
func (e *Engines) Run(ctx context.Context, s Spec) (Endpoint, error) {
	return e.Start(ctx, s, func(string) {})
}

// Start is Run, and calls placed with the engine's node as soon as its pod is bound
// to that one: the fence holds by then, because no pod is made before, and the
// scheduler has found the backing volumes within the node's reach. The container has
// still to start, or runs already. It is not called for one that has ended before, of
// which nobody knows whether it ever serves, and again when the pod went and another
// one came.
func (e *Engines) Start(ctx context.Context, s Spec, placed func(node string)) (Endpoint, error) {
	if s.Lease {
		if err := e.ensureLease(ctx, s.Volume); err != nil {
			return Endpoint{}, err
		}
	}
	if err := e.protect(ctx, s); err != nil {
		return Endpoint{}, err
	}
	for {
		pod, err := e.ensurePod(ctx, s)
		if err == nil {
			err = e.relabel(ctx, s, pod)
		}
		if err != nil {
			return Endpoint{}, err
		}
		at, gone, err := e.awaitRunning(ctx, pod, placed)
		if err != nil || !gone {
			return at, err
		}
		// Somebody deleted it meanwhile, or its node evicted it.
	}
}

// ensurePod returns the pod that has the volume or is about to have it. It is
// made if there is none, or if the one that there is has ended; also on the node
// of one that is being deleted, whose place it takes.
func (e *Engines) ensurePod(ctx context.Context, s Spec) (*corev1.Pod, error) {
	for {
		p, err := e.podsOf(ctx, s.Volume)
		if err != nil {
			return nil, err
		}
		if any, err := e.removeStrays(ctx, p); any || err != nil {
			if err != nil {
				return nil, err
			}
			continue
		}
		var pod *corev1.Pod
		if p.engine == nil {
			pod, err = e.first(ctx, s)
		} else {
			pod, err = e.present(ctx, s, p)
		}
		if pod != nil || err != nil {
			return pod, err
		}
	}
}

// first makes a pod for a volume that has none; nil if one has come meanwhile.
func (e *Engines) first(ctx context.Context, s Spec) (*corev1.Pod, error) {
	if err := e.awaitDetached(ctx, s.Volume, s.Node); err != nil {
		return nil, err
	}
	pod, err := e.build(ctx, s)
	if err != nil {
		return nil, err
	}
	return e.create(ctx, pod)
}

// present returns the pod that is wanted of those that there are; nil after
// something was removed that was in its way.
func (e *Engines) present(ctx context.Context, s Spec, p pods) (*corev1.Pod, error) {
	pod := p.engine
	leaving, node := pod.DeletionTimestamp != nil, boundTo(pod)
	elsewhere := s.Node != "" && node != s.Node
	switch {
	case !leaving && (ended(pod) || heldBack(pod)):
		// Its successor need not wait until it is gone.
		return nil, e.release(ctx, pod)
	case !leaving && pod.Spec.NodeName == "" && node != s.Node:
		// It never began, and waits for another node.
		return nil, e.remove(ctx, pod)
	case leaving && (elsewhere || pod.Spec.NodeName == ""):
		return nil, e.awaitGone(ctx, pod)
	case leaving:
		next, err := e.succeed(ctx, s, p)
		if errors.Is(err, ErrAlone) {
			return nil, e.awaitGone(ctx, pod)
		}
		return next, err
	case elsewhere:
		return nil, fmt.Errorf("engine pod %s is on node %s: %w", pod.Name, node, ErrElsewhere)
	case p.successor != nil:
		// A handover was given up. Whichever of the two has the place now, the
		// engine's own process has it or is the next.
		return nil, e.remove(ctx, p.successor)
	}
	return pod, nil
}

// relabel has a pod say which group its volume is in now.
func (e *Engines) relabel(ctx context.Context, s Spec, pod *corev1.Pod) error {
	wanted := groupLabel(s)
	if wanted == nil || pod.Labels[labelGroup] == wanted[labelGroup] {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "labels": wanted}})
	if err != nil {
		return fmt.Errorf("encode label: %w", err)
	}
	_, err = e.cfg.Client.CoreV1().Pods(e.cfg.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("label engine pod %s: %w", pod.Name, err)
	}
	return nil
}

// hasEnded reports whether a pod's container has ended before, whether or not it runs
// again.
func hasEnded(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.State.Terminated != nil || c.LastTerminationState.Terminated != nil
	})
}

// ended reports whether a pod will never run again: evicted, for example.
func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

// steady is how long an engine has to have run for its end not to be the
// beginning's fault.
const steady = 5 * time.Second

// heldBack reports whether the kubelet makes a pod wait, or is about to, because its
// container has ended before, although it had run well: killed twice, for example. It
// waits 10 s at first and 5 min at last, and I/O with it; a new pod need not.
// An engine that ends as soon as it has begun is left to the kubelet.
func heldBack(pod *corev1.Pod) bool {
	for _, c := range pod.Status.ContainerStatuses {
		before, end := c.LastTerminationState.Terminated, c.State.Terminated
		switch w := c.State.Waiting; {
		case before == nil:
			continue
		case w != nil && w.Reason == reasonBackOff:
			end = before
		case end == nil || end.FinishedAt.Sub(before.FinishedAt.Time) >= forgiven:
			continue
		}
		return end.FinishedAt.Sub(end.StartedAt.Time) >= steady
	}
	return false
}

// forgiven is how long after an end the kubelet starts a container that ends again at
// once, as it does the first time. It says that it waits some time after it has begun to.
const forgiven = 10 * time.Minute

// reasonBackOff is what the kubelet calls it.
const reasonBackOff = "CrashLoopBackOff"

// awaitRunning waits until the pod's container runs; gone if the pod went, or
// ended, instead. placed is called when it has its node.
func (e *Engines) awaitRunning(ctx context.Context, pod *corev1.Pod, placed func(node string)) (at Endpoint, gone bool, err error) {
	nudging, stop := context.WithCancel(ctx)
	var nudged sync.WaitGroup
	nudged.Go(func() { e.nudge(nudging, pod) })
	defer func() { stop(); nudged.Wait() }()
	last, told := pod, false
	err = e.follow(ctx, pod, func(now *corev1.Pod) bool {
		if now == nil || now.UID != pod.UID || now.DeletionTimestamp != nil || ended(now) || heldBack(now) {
			gone = true
			return true
		}
		last = now
		if now.Spec.NodeName != "" && !told && !hasEnded(now) {
			told = true
			placed(now.Spec.NodeName)
		}
		return started(now)
	})
	if err != nil {
		return Endpoint{}, false, fmt.Errorf("wait for engine pod %s: %s%s: %w", pod.Name, Waiting(last), e.more(last), err)
	}
	if gone {
		return Endpoint{}, true, nil
	}
	return Endpoint{Address: net.JoinHostPort(last.Status.PodIP, e.cfg.port()), Node: last.Spec.NodeName, Template: last.Annotations[annotationTemplate]}, false, nil
}

// started reports whether the engine's container runs and can be reached. Its
// readiness is the volume's, and not waited for.
func started(pod *corev1.Pod) bool {
	if pod.Status.PodIP == "" || pod.Spec.NodeName == "" {
		return false
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.Name == containerName {
			return c.State.Running != nil
		}
	}
	return false
}

// Stop ends the engine and returns when no engine of the volume can ever write
// again: its pod is gone, no node has a backing volume attached, and nobody
// holds the lease. No error if there is none. It never forces: a pod on a node
// that is lost goes when Kubernetes or a person removes it. It waits as long as
// ctx allows, and then says in ErrNotFenced for what.
func (e *Engines) Stop(ctx context.Context, volume string) error {
	seen := e.seeLease(ctx, volume)
	for again := true; again; {
		if err := e.stopPods(ctx, volume); err != nil {
			return err
		}
		if err := e.unprotect(ctx, volume); err != nil {
			return err
		}
		var err error
		if again, err = e.awaitUnused(ctx, volume); err != nil {
			return err
		}
	}
	return e.awaitLease(ctx, volume, seen)
}

// stopPods ends the pods that a volume has now, and waits until they are gone.
func (e *Engines) stopPods(ctx context.Context, volume string) error {
	p, err := e.podsOf(ctx, volume)
	if err != nil {
		return err
	}
	// Who waits goes first, or it would be handed the volume.
	all := p.strays
	if p.successor != nil {
		all = append(all, p.successor)
	}
	if p.engine != nil {
		all = append(all, p.engine)
	}
	for _, pod := range all {
		if err := e.release(ctx, pod); err != nil {
			return err
		}
	}
	for _, pod := range all {
		if err := e.awaitGone(ctx, pod); err != nil {
			return err
		}
	}
	return nil
}

// Forget removes what is left of a volume whose engine is stopped for good.
func (e *Engines) Forget(ctx context.Context, volume string) error {
	err := e.cfg.Client.CoordinationV1().Leases(e.cfg.Namespace).Delete(ctx, Name(volume), metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete lease %s: %w", Name(volume), err)
	}
	return e.unprotect(ctx, volume)
}

// remove deletes a pod and waits until its object is gone.
func (e *Engines) remove(ctx context.Context, pod *corev1.Pod) error {
	if err := e.release(ctx, pod); err != nil {
		return err
	}
	return e.awaitGone(ctx, pod)
}

// awaitGone waits until a pod's object is gone.
func (e *Engines) awaitGone(ctx context.Context, pod *corev1.Pod) error {
	err := e.follow(ctx, pod, func(now *corev1.Pod) bool { return now == nil || now.UID != pod.UID })
	if err != nil {
		return notFenced(ctx, err, fmt.Sprintf("pod %s is not gone from node %s%s", pod.Name, pod.Spec.NodeName, e.more(pod)))
	}
	return nil
}

// protect keeps an attached volume's pod from being evicted, and lets others
// go: who drains a node has to move the volume's user first.
func (e *Engines) protect(ctx context.Context, s Spec) error {
	if !s.Attached {
		return e.unprotect(ctx, s.Volume)
	}
	one := intstr.FromInt32(1)
	_, err := e.cfg.Client.PolicyV1().PodDisruptionBudgets(e.cfg.Namespace).Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: Name(s.Volume), Labels: e.labels(s.Volume)},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{labelComponent: componentEngine, labelVolume: s.Volume}}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("protect engine pod %s: %w", Name(s.Volume), err)
	}
	return nil
}

func (e *Engines) unprotect(ctx context.Context, volume string) error {
	err := e.cfg.Client.PolicyV1().PodDisruptionBudgets(e.cfg.Namespace).Delete(ctx, Name(volume), metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete disruption budget %s: %w", Name(volume), err)
	}
	return nil
}

// ensureLease makes the object that the engine renews.
func (e *Engines) ensureLease(ctx context.Context, volume string) error {
	_, err := e.cfg.Client.CoordinationV1().Leases(e.cfg.Namespace).Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: Name(volume), Labels: e.labels(volume)}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make lease %s: %w", Name(volume), err)
	}
	return nil
}

// Engine is one that List found.
type Engine struct {
	Volume  string
	Pod     string
	Node    string
	Phase   string
	Waiting string // what it waits for; empty when it runs
}

// List returns every engine pod in the namespace, by name.
func (e *Engines) List(ctx context.Context) ([]Engine, error) {
	pods, err := e.cfg.Client.CoreV1().Pods(e.cfg.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labelComponent + "=" + componentEngine + "," + labelVolume})
	if err != nil {
		return nil, fmt.Errorf("list engine pods: %w", err)
	}
	var all []Engine
	for i := range pods.Items {
		p := &pods.Items[i]
		found := Engine{Volume: p.Labels[labelVolume], Pod: p.Name, Node: p.Spec.NodeName, Phase: string(p.Status.Phase)}
		if !started(p) {
			found.Waiting = Waiting(p)
		}
		all = append(all, found)
	}
	return all, nil
}

var errWatchEnded = errors.New("watch ended")
