package cluster

import (
	"context"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
)

// claimMark begins an argument that names a claim instead of its group.
const claimMark = "pvc:"

// Group is a consistency group's name in its two parts.
type Group struct{ Namespace, Name string }

// String is the name that sites use.
func (g Group) String() string { return g.Namespace + "/" + g.Name }

// BadNameError says that an argument names no group.
type BadNameError struct{ message string }

func (e *BadNameError) Error() string { return e.message }

// ResolveGroup finds the group that argument means: NAME in kubectl's current
// namespace, NAMESPACE/NAME, or the group of a claim, pvc:NAME or
// pvc:NAMESPACE/NAME. Only for a claim it asks the API server, with rights that
// whoever may look at the namespace has; otherwise the group need not exist.
func (c *Cluster) ResolveGroup(ctx context.Context, argument string) (Group, error) {
	name, isClaim := strings.CutPrefix(argument, claimMark)
	g := Group{Namespace: c.Namespace, Name: name}
	if namespace, rest, found := strings.Cut(name, "/"); found {
		g = Group{Namespace: namespace, Name: rest}
	}
	if g.Namespace == "" || g.Name == "" || strings.Contains(g.Name, "/") {
		return Group{}, &BadNameError{fmt.Sprintf("%q names no group: want GROUP, NAMESPACE/GROUP, pvc:CLAIM or pvc:NAMESPACE/CLAIM", argument)}
	}
	if !isClaim {
		return g, nil
	}
	return c.groupOfClaim(ctx, g.Namespace, g.Name)
}

// groupOfClaim looks a claim up in the members of its namespace's groups. A
// replica's members have the claims' names at the primary.
func (c *Cluster) groupOfClaim(ctx context.Context, namespace, claim string) (Group, error) {
	list, err := c.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("consistencygroups")).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return Group{}, fmt.Errorf("find the group of claim %s/%s: %w", namespace, claim, err)
	}
	for i := range list.Items {
		var group v1alpha1.ConsistencyGroup
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, &group); err != nil {
			return Group{}, fmt.Errorf("read ConsistencyGroup %s/%s: %w", namespace, list.Items[i].GetName(), err)
		}
		for _, member := range group.Status.Members {
			if member.Claim == claim {
				return Group{Namespace: namespace, Name: group.Name}, nil
			}
		}
	}
	_, err = c.Kube.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, claim, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Group{}, fmt.Errorf("namespace %s has no claim %s, and none of its groups a member of that name", namespace, claim)
	}
	return Group{}, fmt.Errorf("claim %s/%s is in no consistency group: is it of a class of Lockstep's, and bound? A new member is shown within 10 s", namespace, claim)
}
