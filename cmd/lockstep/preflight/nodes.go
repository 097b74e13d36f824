package preflight

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
)

// Kernel with FUSE_HAS_RESEND, which lets an engine be replaced under I/O.
const resendMajor, resendMinor = 6, 9

func (i *inspection) checkNodes(ctx context.Context) {
	nodes, err := i.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		i.unseen("nodes", "", err)
		return
	}
	pods, err := i.Kube.CoreV1().Pods(i.DriverNamespace).List(ctx, metav1.ListOptions{LabelSelector: cluster.SelectNode})
	if err != nil {
		i.unseen("node plugin", "", err)
		return
	}
	registered, err := i.Kube.StorageV1().CSINodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		i.unseen("node plugin", "", err)
		registered = nil
	}
	for n := range nodes.Items {
		node := &nodes.Items[n]
		if os := node.Status.NodeInfo.OperatingSystem; os != "" && os != "linux" {
			continue // the plugin does not go there
		}
		i.checkKernel(node.Name, node.Status.NodeInfo.KernelVersion)
		if i.checkNodePlugin(node, pods.Items) && registered != nil {
			i.checkRegistration(node.Name, registered.Items)
		}
	}
	if len(nodes.Items) == 0 {
		i.fail("nodes", "", "the cluster has none", "join a node")
	}
}

func (i *inspection) checkKernel(node, release string) {
	const check = "kernel"
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		i.warn(check, node, fmt.Sprintf("its release is %q", release), "see that it is Linux 6.9 or later")
		return
	}
	if major < resendMajor || major == resendMajor && minor < resendMinor {
		i.warn(check, node, "Linux "+release, "upgrade to Linux 6.9 or later: before that, an engine that dies fails the I/O of its volume")
		return
	}
	i.ok(check, node, "Linux "+release)
}

// checkNodePlugin looks at a node's plugin, whose readiness stands for
// /dev/fuse and loop devices: what a machine has, the API server does not know.
func (i *inspection) checkNodePlugin(node *corev1.Node, pods []corev1.Pod) bool {
	const check = "node plugin"
	for n := range pods {
		pod := &pods[n]
		if pod.Spec.NodeName != node.Name || pod.DeletionTimestamp != nil {
			continue
		}
		if reason := whyNotReady(pod); reason != "" {
			i.fail(check, node.Name, reason, fmt.Sprintf("kubectl -n %s logs %s -c node: the node needs /dev/fuse and loop devices (modules fuse and loop)", pod.Namespace, pod.Name))
			return false
		}
		i.ok(check, node.Name, "ready")
		return true
	}
	if taint := unusualTaint(node); taint != "" {
		i.warn(check, node.Name, "no pod, taint "+taint, "for volumes on this node, tolerate the taint: value node.tolerations of the chart")
		return false
	}
	i.fail(check, node.Name, "no pod", "see the events of the DaemonSet: kubectl -n "+i.DriverNamespace+" describe daemonsets")
	return false
}

// unusualTaint is one that pods of a DaemonSet do not tolerate by themselves, as
// they do those by which Kubernetes says how a node is.
func unusualTaint(node *corev1.Node) string {
	for _, taint := range node.Spec.Taints {
		if !strings.HasPrefix(taint.Key, "node.kubernetes.io/") && taint.Effect != corev1.TaintEffectPreferNoSchedule {
			return taint.Key
		}
	}
	return ""
}

// whyNotReady is empty for a pod that is.
func whyNotReady(pod *corev1.Pod) string {
	for _, status := range pod.Status.ContainerStatuses {
		switch {
		case status.State.Waiting != nil:
			return "container " + status.Name + " is waiting: " + status.State.Waiting.Reason
		case status.State.Terminated != nil:
			return "container " + status.Name + " has ended: " + status.State.Terminated.Reason
		case !status.Ready:
			return "container " + status.Name + " is not ready"
		}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			return ""
		}
	}
	return "the pod is " + string(pod.Status.Phase) + " and not ready"
}

// checkRegistration looks whether the kubelet knows the driver.
func (i *inspection) checkRegistration(node string, registered []storagev1.CSINode) {
	const check = "registration"
	for _, r := range registered {
		if r.Name != node {
			continue
		}
		for _, driver := range r.Spec.Drivers {
			if driver.Name == i.driver {
				i.ok(check, node, i.driver)
				return
			}
		}
	}
	i.fail(check, node, "the kubelet does not know "+i.driver, "see the logs of container registrar, and whether kubeletDir of the chart is the kubelet's --root-dir")
}
