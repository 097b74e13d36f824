package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is a Kubernetes cluster that tests run in. Its methods may be called
// concurrently.
type Cluster struct {
	Name       string // "a" or "b"
	Kubeconfig string // path of the file
	Config     *rest.Config
	Client     kubernetes.Interface
	Dynamic    dynamic.Interface
	Images     Images

	mapper *restmapper.DeferredDiscoveryRESTMapper
	kit    *Kit // nil: the cluster is not the kit's
}

// Images are the images that every node of a cluster has or can pull.
type Images struct {
	Lockstep string
	Tools    string // a shell, file system tools, fio, PostgreSQL; see tools.Dockerfile
}

// OpenCluster connects to the cluster of a kubeconfig. kit is nil for one that
// is not the kit's.
func OpenCluster(name, kubeconfig string, images Images, kit *Kit) (*Cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig of cluster %s: %w", name, err)
	}
	config.QPS = -1 // waits ask often, and the bound on them is theirs
	c := &Cluster{Name: name, Kubeconfig: kubeconfig, Config: config, Images: images, kit: kit}
	if c.Client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("make client of cluster %s: %w", name, err)
	}
	if c.Dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("make client of cluster %s: %w", name, err)
	}
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.Client.Discovery()))
	return c, nil
}

// Kit returns the powers over the cluster's nodes and network, and skips the
// test where there are none.
func (c *Cluster) Kit(t testing.TB) *Kit {
	t.Helper()
	if c.kit == nil {
		t.Skipf("not tested: cluster %s is not of tests/cluster, and its nodes and network cannot be switched off", c.Name)
	}
	return c.kit
}

// Nodes returns the names of the nodes that are Ready and take pods, sorted.
// It skips the test when there are fewer than least, and waits for those that
// a test before has switched off.
func (c *Cluster) Nodes(t testing.TB, least int) []string {
	t.Helper()
	var names []string
	WaitFor(t, nodeTimeout, fmt.Sprintf("%d nodes of cluster %s", least, c.Name), func(ctx context.Context) error {
		list, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		names = nil
		var waiting []error
		for _, node := range list.Items {
			if node.Spec.Unschedulable {
				continue
			}
			if err := nodeReady(&node); err != nil {
				waiting = append(waiting, err)
				continue
			}
			names = append(names, node.Name) // the API server sorts
		}
		if len(names) >= least || len(names)+len(waiting) < least {
			return nil
		}
		return errors.Join(waiting...)
	})
	if len(names) < least {
		t.Skipf("not tested: needs %d nodes, and cluster %s has %v", least, c.Name, names)
	}
	return names
}

// nodeReady returns nil for a node that is Ready, and otherwise why it is not.
func nodeReady(node *corev1.Node) error {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			if condition.Status == corev1.ConditionTrue {
				return nil
			}
			return fmt.Errorf("%s is not Ready: %s", node.Name, condition.Message)
		}
	}
	return fmt.Errorf("%s has no condition Ready", node.Name)
}

// AwaitNode waits until a node is Ready, or until it no longer is.
func (c *Cluster) AwaitNode(ctx context.Context, name string, ready bool) error {
	what := "node " + name + " to be Ready"
	if !ready {
		what = "node " + name + " to be NotReady"
	}
	return Await(ctx, nodeTimeout, what, func(ctx context.Context) error {
		node, err := c.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		why := nodeReady(node)
		switch {
		case ready:
			return why
		case why == nil:
			return errors.New("it is Ready")
		}
		return nil
	})
}

// MarkOutOfService tells Kubernetes that a node is off for sure, which lets it
// take the node's pods and attachments away at once. The test's end undoes it.
func (c *Cluster) MarkOutOfService(t testing.TB, name string) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.taint(context.Background(), name, false); err != nil {
			t.Errorf("take the node that the test had marked into service: %v", err)
		}
	})
	if err := c.taint(t.Context(), name, true); err != nil {
		t.Fatal(err)
	}
}

// MarkInService undoes MarkOutOfService.
func (c *Cluster) MarkInService(t testing.TB, name string) {
	t.Helper()
	if err := c.taint(t.Context(), name, false); err != nil {
		t.Fatal(err)
	}
}

// taint sets or removes the taint node.kubernetes.io/out-of-service.
func (c *Cluster) taint(ctx context.Context, name string, set bool) error {
	return Await(ctx, nodeTimeout, "taint of node "+name+" to be changed", func(ctx context.Context) error {
		node, err := c.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		node.Spec.Taints = slices.DeleteFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
		if set {
			node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute})
		}
		_, err = c.Client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
		return err // or a conflict with the node's own status, and then once more
	})
}
