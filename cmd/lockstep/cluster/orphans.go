package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// Kinds that carry the label of a volume, in the order in which they are
// removed: what uses a claim goes before it.
const (
	KindPod    = "Pod"
	KindPDB    = "PodDisruptionBudget"
	KindLease  = "Lease"
	KindClaim  = "PersistentVolumeClaim"
	KindVolume = "Volume" // of the catalog, which no object shows
)

var removalOrder = []string{KindPod, KindPDB, KindLease, KindClaim}

// Owned is an object in the driver's namespace that was made for a volume.
type Owned struct {
	Kind    string
	Name    string
	UID     types.UID
	Volume  string // 32 hexadecimal digits, as the label says
	Site    string // empty when no label says so
	Claim   string // NAMESPACE/NAME that the volume was for
	Created time.Time
	// Part is what a claim holds, kubenames.PartStore or PartJournal.
	Part string
}

// Owned lists everything that was made for volumes. Call it before asking the
// controller for its volumes: a volume is in the catalog before anything is
// made for it, and until all of it is gone.
func (c *Cluster) Owned(ctx context.Context) ([]Owned, error) {
	var all []Owned
	add := func(kind string, m metav1.ObjectMeta) {
		all = append(all, Owned{Kind: kind, Name: m.Name, UID: m.UID, Volume: m.Labels[kubenames.LabelVolume], Site: m.Labels[kubenames.LabelSite],
			Claim: m.Annotations[kubenames.AnnotationClaim], Created: m.CreationTimestamp.Time, Part: m.Labels[kubenames.LabelPart]})
	}
	options := metav1.ListOptions{LabelSelector: kubenames.LabelVolume}
	pods, err := c.Kube.CoreV1().Pods(c.DriverNamespace).List(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("list what volumes own: %w", err)
	}
	for _, o := range pods.Items {
		add(KindPod, o.ObjectMeta)
	}
	budgets, err := c.Kube.PolicyV1().PodDisruptionBudgets(c.DriverNamespace).List(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("list what volumes own: %w", err)
	}
	for _, o := range budgets.Items {
		add(KindPDB, o.ObjectMeta)
	}
	leases, err := c.Kube.CoordinationV1().Leases(c.DriverNamespace).List(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("list what volumes own: %w", err)
	}
	for _, o := range leases.Items {
		add(KindLease, o.ObjectMeta)
	}
	claims, err := c.Kube.CoreV1().PersistentVolumeClaims(c.DriverNamespace).List(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("list what volumes own: %w", err)
	}
	for _, o := range claims.Items {
		add(KindClaim, o.ObjectMeta)
	}
	return all, nil
}

// Orphans returns what of owned belongs to none of the volumes of a site, in
// the order in which it may be removed. What another site's label is on is
// nobody's business here.
func Orphans(owned []Owned, site string, volumes []string) []Owned {
	var orphans []Owned
	for _, o := range owned {
		if (o.Site == "" || o.Site == site) && !slices.Contains(volumes, o.Volume) {
			orphans = append(orphans, o)
		}
	}
	slices.SortFunc(orphans, func(a, b Owned) int {
		return cmp.Or(cmp.Compare(slices.Index(removalOrder, a.Kind), slices.Index(removalOrder, b.Kind)), cmp.Compare(a.Name, b.Name))
	})
	return orphans
}

// Remove deletes an orphan, unless it is another object than was listed. One
// that is gone already is no error. A claim that a pod uses goes when the pod
// has gone: Kubernetes protects it until then.
func (c *Cluster) Remove(ctx context.Context, o Owned) error {
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &o.UID}, PropagationPolicy: &background}
	var err error
	switch o.Kind {
	case KindPod:
		err = c.Kube.CoreV1().Pods(c.DriverNamespace).Delete(ctx, o.Name, options)
	case KindPDB:
		err = c.Kube.PolicyV1().PodDisruptionBudgets(c.DriverNamespace).Delete(ctx, o.Name, options)
	case KindLease:
		err = c.Kube.CoordinationV1().Leases(c.DriverNamespace).Delete(ctx, o.Name, options)
	case KindClaim:
		err = c.Kube.CoreV1().PersistentVolumeClaims(c.DriverNamespace).Delete(ctx, o.Name, options)
	default:
		err = errors.New("it cannot be removed here")
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove %s %s: %w", o.Kind, o.Name, err)
	}
	return nil
}
