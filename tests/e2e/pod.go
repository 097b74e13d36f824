package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// idle keeps a pod until it is told to end.
const idle = `trap 'exit 0' INT TERM; while :; do sleep 3600 & wait $!; done`

// Pod says what is particular about a pod of a test. It has one container, of
// the tools image, that is never started again.
type Pod struct {
	Name       string
	Node       string // by affinity, so that the scheduler does the rest; empty: any
	Script     string // for sh; empty: idle until told to end
	Mounts     []Mount
	Labels     map[string]string
	User       int64 // 0: root
	Privileged bool
	HostPID    bool // it sees the node's processes
}

// Mount is a claim that a pod has at a path: a file system, or a device.
type Mount struct {
	Claim    string
	Path     string
	Block    bool
	ReadOnly bool
}

// spec is the pod's specification; StatefulSets use it as well.
func (p Pod) spec(image string) corev1.PodSpec {
	script := p.Script
	if script == "" {
		script = idle
	}
	grace, tokens := int64(2), false
	container := corev1.Container{
		Name: "main", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sh", "-c", script},
		SecurityContext: &corev1.SecurityContext{RunAsUser: &p.User, Privileged: &p.Privileged},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi"),
		}},
	}
	spec := corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace, AutomountServiceAccountToken: &tokens, HostPID: p.HostPID}
	for i, m := range p.Mounts {
		name := fmt.Sprintf("volume-%d", i)
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: m.Claim, ReadOnly: m.ReadOnly},
		}})
		if m.Block {
			container.VolumeDevices = append(container.VolumeDevices, corev1.VolumeDevice{Name: name, DevicePath: m.Path})
		} else {
			container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: m.Path, ReadOnly: m.ReadOnly})
		}
	}
	spec.Containers = []corev1.Container{container}
	if p.Node != "" {
		spec.Affinity = onNode(p.Node)
	}
	return spec
}

// onNode is not spec.nodeName: with that the scheduler never sees the pod, and
// a claim that waits for its first consumer is never bound.
func onNode(name string) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{
			Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{name},
		}}}},
	}}}
}

// CreatePod makes a pod and does not wait for it.
func (n *Namespace) CreatePod(pod Pod) {
	n.t.Helper()
	_, err := n.Client.CoreV1().Pods(n.Namespace).Create(n.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Labels: pod.Labels},
		Spec:       pod.spec(n.Images.Tools),
	}, metav1.CreateOptions{})
	if err != nil {
		n.t.Fatalf("make pod %s: %v", pod.Name, err)
	}
}

// RunPod makes a pod and waits until it is ready.
func (n *Namespace) RunPod(pod Pod) *corev1.Pod {
	n.t.Helper()
	n.CreatePod(pod)
	return n.AwaitPod(pod.Name)
}

// AwaitPod waits until a pod is ready.
func (n *Namespace) AwaitPod(name string) *corev1.Pod {
	n.t.Helper()
	return n.AwaitPodWithin(name, podTimeout)
}

// AwaitPodWithin is AwaitPod for one that may take another time.
func (n *Namespace) AwaitPodWithin(name string, within time.Duration) *corev1.Pod {
	n.t.Helper()
	var pod *corev1.Pod
	WaitFor(n.t, within, "pod "+name+" to be ready", func(ctx context.Context) error {
		var err error
		if pod, err = n.Client.CoreV1().Pods(n.Namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		return podReady(pod)
	})
	return pod
}

// podReady returns nil for a pod that is ready, and otherwise what it lacks. One
// that is being deleted is not the one that is waited for: another one of its name
// may come, from a StatefulSet.
func podReady(pod *corev1.Pod) error {
	if pod.DeletionTimestamp != nil {
		return fmt.Errorf("it is being deleted: %s", podState(pod))
	}
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return Final(fmt.Errorf("it has ended: %s", podState(pod)))
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return errors.New(podState(pod))
}

// podState is a pod's state in a line.
func podState(pod *corev1.Pod) string {
	state := []string{string(pod.Status.Phase)}
	if pod.Spec.NodeName != "" {
		state = append(state, "on "+pod.Spec.NodeName)
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Status != corev1.ConditionTrue && condition.Message != "" {
			state = append(state, condition.Message)
		}
	}
	for _, status := range pod.Status.ContainerStatuses {
		if w := status.State.Waiting; w != nil {
			state = append(state, fmt.Sprintf("%s waits: %s %s", status.Name, w.Reason, w.Message))
		}
		if e := status.State.Terminated; e != nil {
			state = append(state, fmt.Sprintf("%s ended with %d: %s %s", status.Name, e.ExitCode, e.Reason, e.Message))
		}
	}
	return strings.Join(state, "; ")
}

// AwaitPodEnd waits until all that a pod runs has ended, and fails the test
// when it ended badly.
func (n *Namespace) AwaitPodEnd(name string, within time.Duration) {
	n.t.Helper()
	WaitFor(n.t, within, "pod "+name+" to succeed", func(ctx context.Context) error {
		pod, err := n.Client.CoreV1().Pods(n.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		switch pod.Status.Phase {
		case corev1.PodSucceeded:
			return nil
		case corev1.PodFailed:
			return Final(errors.New(podState(pod)))
		}
		return errors.New(podState(pod))
	})
}

// DeletePod deletes a pod and waits until it is gone.
func (n *Namespace) DeletePod(name string) {
	n.t.Helper()
	n.deletePod(name, metav1.DeleteOptions{})
	n.AwaitPodGone(name)
}

// ForgetPod deletes a pod from the API server without waiting for its node,
// as one does when the node is known to be gone. Kubernetes may have done so.
func (n *Namespace) ForgetPod(name string) {
	n.t.Helper()
	now := int64(0)
	err := n.Client.CoreV1().Pods(n.Namespace).Delete(n.t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	if err != nil && !apierrors.IsNotFound(err) {
		n.t.Fatalf("delete pod %s: %v", name, err)
	}
	n.AwaitPodGone(name)
}

func (n *Namespace) deletePod(name string, options metav1.DeleteOptions) {
	n.t.Helper()
	if err := n.Client.CoreV1().Pods(n.Namespace).Delete(n.t.Context(), name, options); err != nil {
		n.t.Fatalf("delete pod %s: %v", name, err)
	}
}

// AwaitPodGone waits until a pod is gone.
func (n *Namespace) AwaitPodGone(name string) {
	n.t.Helper()
	WaitFor(n.t, podTimeout, "pod "+name+" to go", func(ctx context.Context) error {
		pod, err := n.Client.CoreV1().Pods(n.Namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return errors.New(podState(pod))
	})
}

// AwaitExec waits until commands run in a pod again whose node was out of reach.
func (n *Namespace) AwaitExec(pod string) {
	n.t.Helper()
	WaitFor(n.t, podTimeout, "a command to run in pod "+pod, func(ctx context.Context) error {
		_, err := n.Exec(ctx, n.Namespace, pod, "true")
		return err
	})
}

// Sh runs a shell script in a pod and returns what it printed, without the
// space around it.
func (n *Namespace) Sh(pod, script string) string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), execTimeout)
	defer cancel()
	out, err := n.Exec(ctx, n.Namespace, pod, "sh", "-ec", script)
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}
