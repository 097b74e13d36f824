package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ownerLabel marks what tests make outside of namespaces, and their namespaces.
const ownerLabel = "e2e.lockstep.dev/test"

// Namespace is a test's own namespace in a cluster.
type Namespace struct {
	*Cluster
	Namespace string

	t testing.TB
}

// NewNamespace makes a namespace for a test. At the test's end it is taken
// away with all that it holds, and the test fails if that, or a volume of its
// claims, does not go. If the test has failed, what there is to know about the
// namespace is logged before.
func (c *Cluster) NewNamespace(t testing.TB) *Namespace {
	t.Helper()
	return c.newNamespace(t, metav1.ObjectMeta{GenerateName: "e2e-" + slug(t.Name()) + "-"})
}

// Twin is NewNamespace in another cluster, with the same name: where a failover
// makes the claims of this one's volumes.
func (n *Namespace) Twin(in *Cluster) *Namespace {
	n.t.Helper()
	return in.newNamespace(n.t, metav1.ObjectMeta{Name: n.Namespace})
}

func (c *Cluster) newNamespace(t testing.TB, object metav1.ObjectMeta) *Namespace {
	t.Helper()
	object.Labels = map[string]string{
		ownerLabel: slug(t.Name()),
		// Tests look at nodes and devices from within pods.
		"pod-security.kubernetes.io/enforce": "privileged",
	}
	made, err := c.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: object}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("make namespace in cluster %s: %v", c.Name, err)
	}
	n := &Namespace{Cluster: c, Namespace: made.Name, t: t}
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), dumpTimeout)
			defer cancel()
			c.Dump(ctx, t.Output(), n.Namespace)
		}
		ctx, cancel := context.WithTimeout(context.Background(), podTimeout+volumeTimeout+cleanTimeout)
		defer cancel()
		if err := n.remove(ctx); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	WaitFor(t, podTimeout, "service account of namespace "+n.Namespace, func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ServiceAccounts(n.Namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return n
}

// For is the namespace for a subtest, which its helpers then fail.
func (n *Namespace) For(t testing.TB) *Namespace {
	return &Namespace{Cluster: n.Cluster, Namespace: n.Namespace, t: t}
}

// slug makes a label value of a test's name.
func slug(name string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(strings.TrimPrefix(name, "Test")))
	return strings.Trim(clean[:min(len(clean), 40)], "-")
}

// remove deletes what the namespace holds, then the namespace, and waits until
// it and the volumes of its claims are gone. Kubernetes would do all of that for
// a namespace that is deleted, but looks again only seconds later when a pod
// keeps a claim, or a claim the namespace.
func (n *Namespace) remove(ctx context.Context) error {
	all, now := metav1.ListOptions{}, metav1.DeleteOptions{}
	core, apps := n.Client.CoreV1(), n.Client.AppsV1()
	err := errors.Join(
		apps.StatefulSets(n.Namespace).DeleteCollection(ctx, now, all),
		apps.Deployments(n.Namespace).DeleteCollection(ctx, now, all),
		core.Pods(n.Namespace).DeleteCollection(ctx, now, all),
		Await(ctx, podTimeout, "pods of namespace "+n.Namespace+" to go", n.podsGone),
		core.PersistentVolumeClaims(n.Namespace).DeleteCollection(ctx, now, all),
		Await(ctx, volumeTimeout, "volumes of namespace "+n.Namespace+" to go", n.volumesGone),
	)
	if gone := core.Namespaces().Delete(ctx, n.Namespace, now); gone != nil && !apierrors.IsNotFound(gone) {
		return errors.Join(err, fmt.Errorf("delete namespace %s: %w", n.Namespace, gone))
	}
	return errors.Join(err, Await(ctx, cleanTimeout, "namespace "+n.Namespace+" to go", func(ctx context.Context) error {
		left, err := core.Namespaces().Get(ctx, n.Namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return remains(left)
	}))
}

func (n *Namespace) podsGone(ctx context.Context) error {
	list, err := n.Client.CoreV1().Pods(n.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var errs []error
	for i := range list.Items {
		errs = append(errs, fmt.Errorf("pod %s: %s", list.Items[i].Name, podState(&list.Items[i])))
	}
	return errors.Join(errs...)
}

// remains says what keeps a namespace from going.
func remains(namespace *corev1.Namespace) error {
	errs := []error{errors.New("it is there still")}
	for _, condition := range namespace.Status.Conditions {
		if condition.Status == corev1.ConditionTrue {
			errs = append(errs, errors.New(condition.Message))
		}
	}
	return errors.Join(errs...)
}

// volumesGone looks for volumes that were deleted with their claims. One that
// its class retains is the test's to delete.
func (n *Namespace) volumesGone(ctx context.Context) error {
	list, err := n.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range list.Items {
		if claim := v.Spec.ClaimRef; claim != nil && claim.Namespace == n.Namespace {
			errs = append(errs, fmt.Errorf("volume %s of claim %s is %s: %s", v.Name, claim.Name, v.Status.Phase, v.Status.Message))
		}
	}
	return errors.Join(errs...)
}

// AwaitEvent waits for an event about an object of the namespace whose message
// says all of words.
func (n *Namespace) AwaitEvent(object, reason string, words ...string) {
	n.t.Helper()
	WaitFor(n.t, podTimeout, fmt.Sprintf("event %s about %s that says %q", reason, object, words), func(ctx context.Context) error {
		list, err := n.Client.CoreV1().Events(n.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + object})
		if err != nil {
			return err
		}
		var others []string
		for _, event := range list.Items {
			if event.Reason == reason && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(event.Message, w) }) {
				return nil
			}
			others = append(others, event.Reason+": "+event.Message)
		}
		return fmt.Errorf("there are %q", others)
	})
}
