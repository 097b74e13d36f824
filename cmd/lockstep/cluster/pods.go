package cluster

import (
	"context"
	"fmt"
	"net"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

const (
	// AdminPort is where the controller serves its admin API, on loopback.
	AdminPort = 7445
	// NBDPort is where an engine shows its volume and its views, on loopback.
	NBDPort = 10809

	// SelectOurs selects what the chart made, whatever its release is called.
	SelectOurs = "app.kubernetes.io/part-of=lockstep"
	// SelectController and SelectNode select the pods of a role.
	SelectController = SelectOurs + "," + kubenames.LabelComponent + "=controller"
	SelectNode       = SelectOurs + "," + kubenames.LabelComponent + "=node"
)

// ControllerPod finds the controller.
func (c *Cluster) ControllerPod(ctx context.Context) (*corev1.Pod, error) {
	pods, err := c.Kube.CoreV1().Pods(c.DriverNamespace).List(ctx, metav1.ListOptions{LabelSelector: SelectController})
	if err != nil {
		return nil, fmt.Errorf("find the controller: %w", err)
	}
	var found *corev1.Pod
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil && (found == nil || ready(pod)) {
			found = pod
		}
	}
	switch {
	case found != nil:
		return found, nil
	case len(pods.Items) > 0:
		return nil, fmt.Errorf("pod %s/%s, the controller, does not run: it is %s", c.DriverNamespace, pods.Items[0].Name, pods.Items[0].Status.Phase)
	default:
		return nil, fmt.Errorf("namespace %s has no controller of Lockstep: pass --lockstep-namespace, or install it", c.DriverNamespace)
	}
}

// EnginePod is the name of the pod that a volume's engine is in: a handover makes
// another one, with another name. Without an answer it is the usual one.
func (c *Cluster) EnginePod(ctx context.Context, volume string) string {
	pods, err := c.Kube.CoreV1().Pods(c.DriverNamespace).List(ctx, metav1.ListOptions{
		LabelSelector: kubenames.LabelComponent + "=" + kubenames.ComponentEngine + "," + kubenames.LabelVolume + "=" + volume})
	if err != nil {
		return kubenames.Engine(volume)
	}
	var found *corev1.Pod
	for i := range pods.Items {
		if pod := &pods.Items[i]; found == nil || ready(pod) && !ready(found) {
			found = pod
		}
	}
	if found == nil {
		return kubenames.Engine(volume)
	}
	return found.Name
}

// ready reports a pod's Ready condition.
func ready(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// DialAdmin connects to the controller's admin API.
func (c *Cluster) DialAdmin(ctx context.Context) (net.Conn, error) {
	pod, err := c.ControllerPod(ctx)
	if err != nil {
		return nil, err
	}
	return c.Ports.DialPod(ctx, pod.Namespace, pod.Name, AdminPort)
}

// Denied reports whether err says that the user may not do something, as
// opposed to that it did not work.
func Denied(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) }
