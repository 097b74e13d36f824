package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/replication"
)

// maxOwners bounds how far up a pod's owners are followed: pod, ReplicaSet,
// Deployment, and what a platform puts above.
const maxOwners = 8

// decision is the group that a claim belongs to.
type decision struct {
	group string // its whole name
	// certain is false when nothing uses the claim now: the group is then the
	// one to begin in, and no reason to leave another.
	certain bool
}

// decider reads from the API server what decides a claim's group.
type decider struct {
	// pods lists the pods of a namespace, and objects gets anything else. They
	// may differ: the first is often a cache.
	pods    client.Reader
	objects client.Reader
}

// decide finds the nearest annotation: on the claim, on a pod that uses it, on
// the pod's owners, on the namespace. Without one the storage class may name a
// group of the claim's namespace, and else a claim is a group of its own. controller.ErrInvalid for a name that no group can have, and for pods
// that name different groups.
func (d decider) decide(ctx context.Context, claim *corev1.PersistentVolumeClaim) (decision, error) {
	where := fmt.Sprintf("claim %s/%s", claim.Namespace, claim.Name)
	if name, ok := claim.Annotations[AnnotationGroup]; ok {
		return decision{groupName(claim.Namespace, name), true}, checkGroup(where, name)
	}
	users, err := d.users(ctx, claim.Namespace, claim.Name)
	if err != nil {
		return decision{}, err
	}
	named, by := "", ""
	for i := range users {
		name, object, err := d.nearest(ctx, &users[i])
		if err != nil {
			return decision{}, err
		}
		if name != "" && named != "" && name != named {
			return decision{}, fmt.Errorf("%s is used by what names two groups, %s by %s and %s by %s: annotate the claim: %w",
				where, named, by, name, object, controller.ErrInvalid)
		}
		if name != "" {
			named, by = name, object
		}
	}
	if named == "" {
		if named, err = d.ofNamespace(ctx, claim.Namespace); err != nil {
			return decision{}, err
		}
	}
	if named == "" {
		if named, err = d.ofClass(ctx, claim); err != nil {
			return decision{}, err
		}
	}
	if named == "" {
		named = claim.Name
		if n := len(groupName(claim.Namespace, named)); n > replication.MaxNameBytes {
			return decision{}, fmt.Errorf("%s is a group of its own, and its name has %d bytes with the namespace's, want at most %d: annotate the claim with %s: %w",
				where, n, replication.MaxNameBytes, AnnotationGroup, controller.ErrInvalid)
		}
	}
	return decision{groupName(claim.Namespace, named), len(users) > 0}, nil
}

// users are the pods that use a claim and have not ended, by name.
func (d decider) users(ctx context.Context, namespace, claim string) ([]corev1.Pod, error) {
	var pods corev1.PodList
	if err := d.pods.List(ctx, &pods, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list pods of namespace %s: %w", namespace, err)
	}
	users := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return isOver(&p) || !slices.Contains(claimsOf(&p), claim) })
	slices.SortFunc(users, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return users, nil
}

func isOver(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// claimsOf are the names of the claims that a pod uses.
func claimsOf(p *corev1.Pod) []string {
	var names []string
	for _, v := range p.Spec.Volumes {
		switch {
		case v.PersistentVolumeClaim != nil:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, p.Name+"-"+v.Name)
		}
	}
	return names
}

// nearest finds the annotation of a pod or of the nearest of its owners that
// has one, and says what that is.
func (d decider) nearest(ctx context.Context, pod *corev1.Pod) (name, object string, err error) {
	if name, ok := pod.Annotations[AnnotationGroup]; ok {
		object = "pod " + pod.Name
		return name, object, checkGroup(object, name)
	}
	owners, err := d.owners(ctx, pod)
	if err != nil {
		return "", "", err
	}
	for _, owner := range owners {
		if name, ok := owner.GetAnnotations()[AnnotationGroup]; ok {
			object = fmt.Sprintf("%s %s", owner.GetKind(), owner.GetName())
			return name, object, checkGroup(object, name)
		}
	}
	return "", "", nil
}

// owners are the controllers of a pod from the nearest upwards. What may not be
// read, or is not there any more, ends them.
func (d decider) owners(ctx context.Context, pod *corev1.Pod) ([]*unstructured.Unstructured, error) {
	var owners []*unstructured.Unstructured
	for ref := metav1.GetControllerOf(pod); ref != nil && len(owners) < maxOwners; {
		owner := &unstructured.Unstructured{}
		owner.SetGroupVersionKind(schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind))
		err := d.objects.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: ref.Name}, owner)
		switch {
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err), meta.IsNoMatchError(err):
			return owners, nil
		case err != nil:
			return nil, fmt.Errorf("read %s %s/%s: %w", ref.Kind, pod.Namespace, ref.Name, err)
		case owner.GetUID() != ref.UID:
			return owners, nil // another one of that name
		}
		owners = append(owners, owner)
		ref = metav1.GetControllerOf(owner)
	}
	return owners, nil
}

func (d decider) ofNamespace(ctx context.Context, namespace string) (string, error) {
	var ns corev1.Namespace
	if err := d.objects.Get(ctx, types.NamespacedName{Name: namespace}, &ns); err != nil {
		return "", fmt.Errorf("read namespace %s: %w", namespace, err)
	}
	name, ok := ns.Annotations[AnnotationGroup]
	if !ok {
		return "", nil
	}
	return name, checkGroup("namespace "+namespace, name)
}

// ofClass is the group that the claim's storage class names; empty: none.
func (d decider) ofClass(ctx context.Context, claim *corev1.PersistentVolumeClaim) (string, error) {
	if claim.Spec.StorageClassName == nil || *claim.Spec.StorageClassName == "" {
		return "", nil
	}
	var class storagev1.StorageClass
	err := d.objects.Get(ctx, types.NamespacedName{Name: *claim.Spec.StorageClassName}, &class)
	if apierrors.IsNotFound(err) {
		return "", nil // deleted since: its volumes stay
	}
	if err != nil {
		return "", fmt.Errorf("read storage class %s: %w", *claim.Spec.StorageClassName, err)
	}
	name, ok := class.Parameters[controller.ParameterGroup]
	if !ok {
		return "", nil
	}
	return name, checkGroup("storage class "+class.Name, name)
}
