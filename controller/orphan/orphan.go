package orphan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// Kinds that carry the label of a volume.
const (
	KindPod   = "Pod"
	KindPDB   = "PodDisruptionBudget"
	KindLease = "Lease"
	KindClaim = "PersistentVolumeClaim"
)

// removalOrder has what uses a claim before it.
var removalOrder = []string{KindPod, KindPDB, KindLease, KindClaim}

// Object is one in the driver's namespace that was made for a volume.
type Object struct {
	Kind    string
	Name    string
	UID     types.UID
	Volume  string // 32 hexadecimal digits, as the label says
	Site    string // empty when no label says so
	Claim   string // NAMESPACE/NAME that the volume was for
	Created time.Time
	// Part is what a claim holds, kubenames.PartStore or PartJournal.
	Part string
	// Data: it is a claim that has, or had, a volume to hold something.
	Data bool
}

// List returns everything in a namespace that was made for volumes. It needs
// the right to list pods, disruption budgets, leases and claims there.
func List(ctx context.Context, client kubernetes.Interface, namespace string) ([]Object, error) {
	var all []Object
	add := func(kind string, m metav1.ObjectMeta, data bool) {
		all = append(all, Object{Kind: kind, Name: m.Name, UID: m.UID, Volume: m.Labels[kubenames.LabelVolume], Site: m.Labels[kubenames.LabelSite],
			Claim: m.Annotations[kubenames.AnnotationClaim], Created: m.CreationTimestamp.Time, Part: m.Labels[kubenames.LabelPart], Data: data})
	}
	options := metav1.ListOptions{LabelSelector: kubenames.LabelVolume}
	pods, err := client.CoreV1().Pods(namespace).List(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("list what volumes own: %w", err)
	}
	for _, o := range pods.Items {
		add(KindPod, o.ObjectMeta, false)
	}
	budgets, err := client.PolicyV1().PodDisruptionBudgets(namespace).List(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("list what volumes own: %w", err)
	}
	for _, o := range budgets.Items {
		add(KindPDB, o.ObjectMeta, false)
	}
	leases, err := client.CoordinationV1().Leases(namespace).List(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("list what volumes own: %w", err)
	}
	for _, o := range leases.Items {
		add(KindLease, o.ObjectMeta, false)
	}
	claims, err := client.CoreV1().PersistentVolumeClaims(namespace).List(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("list what volumes own: %w", err)
	}
	for i := range claims.Items {
		add(KindClaim, claims.Items[i].ObjectMeta, holdsData(&claims.Items[i]))
	}
	return all, nil
}

// holdsData: a claim that has never been bound has nothing. One that is lost
// had something.
func holdsData(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Spec.VolumeName != "" || claim.Status.Phase != "" && claim.Status.Phase != corev1.ClaimPending
}

// Of returns what of objects belongs to none of the volumes of a site, in the
// order in which it may be removed. What another site's label is on is nobody's
// business here.
func Of(objects []Object, site string, volumes []string) []Object {
	var orphans []Object
	for _, o := range objects {
		if (o.Site == "" || o.Site == site) && !slices.Contains(volumes, o.Volume) {
			orphans = append(orphans, o)
		}
	}
	slices.SortFunc(orphans, func(a, b Object) int {
		return cmp.Or(cmp.Compare(slices.Index(removalOrder, a.Kind), slices.Index(removalOrder, b.Kind)), cmp.Compare(a.Name, b.Name))
	})
	return orphans
}

// Remove deletes an orphan, unless it is another object than was listed. One
// that is gone already is no error. A claim that a pod uses goes when the pod
// has gone: Kubernetes protects it until then.
func Remove(ctx context.Context, client kubernetes.Interface, namespace string, o Object) error {
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &o.UID}, PropagationPolicy: &background}
	var err error
	switch o.Kind {
	case KindPod:
		err = client.CoreV1().Pods(namespace).Delete(ctx, o.Name, options)
	case KindPDB:
		err = client.PolicyV1().PodDisruptionBudgets(namespace).Delete(ctx, o.Name, options)
	case KindLease:
		err = client.CoordinationV1().Leases(namespace).Delete(ctx, o.Name, options)
	case KindClaim:
		err = client.CoreV1().PersistentVolumeClaims(namespace).Delete(ctx, o.Name, options)
	default:
		err = errors.New("it cannot be removed here")
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove %s %s: %w", o.Kind, o.Name, err)
	}
	return nil
}
