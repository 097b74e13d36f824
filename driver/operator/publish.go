package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/csikeys"
	"github.com/lockstep-csi/lockstep/replication"
)

// provisionedBy is where Kubernetes' own provisioner says whose a volume is; the
// attacher, resizer and snapshotter go by the driver's name.
const provisionedBy = "pv.kubernetes.io/provisioned-by"

// volumePrefix goes before a volume's id in the name of a PersistentVolume that
// a failover makes.
const volumePrefix = "lockstep-"

// publish makes the members usable here: known to CSI, then a PersistentVolume
// and a claim for each, bound to each other. There is nothing to use of a volume that
// had not arrived; a recovery that has left one out says so to its end. What is in the way
// of one member is waited for, and does not keep the others: this site is the primary by
// now, and no other recovery would do the rest.
func (r *recoverer) publish(ctx context.Context, rec *v1alpha1.Recovery) error {
	st, ok := r.state(rec)
	if !ok {
		return fail("group %s has ended", rec.Spec.Group)
	}
	existing, err := r.persistentVolumes(ctx)
	if err != nil {
		return err
	}
	var waits, unbound, absent []string
	for _, v := range r.members(st) {
		if v.Absent {
			absent = append(absent, v.Title())
			continue
		}
		made, bound, err := r.publishVolume(ctx, rec, &v, st, existing[v.ID.String()])
		var wait waiting
		if errors.As(err, &wait) {
			waits = append(waits, wait.text)
			continue
		}
		if err != nil {
			return err
		}
		if made == nil {
			continue
		}
		i := slices.IndexFunc(rec.Status.Claims, func(c v1alpha1.RecoveredClaim) bool { return c.Volume == made.Volume })
		if i < 0 {
			rec.Status.Claims = append(rec.Status.Claims, *made)
		} else {
			rec.Status.Claims[i] = *made
		}
		if !bound {
			unbound = append(unbound, made.Claim)
		}
	}
	if len(unbound) > 0 {
		waits = append(waits, "claims are not bound yet: "+strings.Join(unbound, ", "))
	}
	if len(waits) > 0 {
		return waitFor("%s", strings.Join(waits, "; "))
	}
	r.enter(rec, v1alpha1.PhaseCompleted)
	if len(absent) > 0 {
		rec.Status.Message = fmt.Sprintf("nothing had arrived of %s: the site that was the primary has it", strings.Join(absent, ", "))
		r.events.warn(rec, "MemberAbsent", string(rec.Spec.Action), "%s", rec.Status.Message)
	}
	return nil
}

// publishVolume makes one member usable; nil for one that no claim is wanted for.
func (r *recoverer) publishVolume(ctx context.Context, rec *v1alpha1.Recovery, v *fleet.Volume, st group.State, pv *corev1.PersistentVolume) (*v1alpha1.RecoveredClaim, bool, error) {
	err := r.publishable(ctx, rec, v)
	if err == nil {
		err = r.catalog.Adopt(ctx, adoptionOf(v, st))
	}
	var failed failing
	if errors.As(err, &failed) || errors.Is(err, controller.ErrExists) {
		return nil, false, waitFor("%v", err)
	}
	if err != nil {
		return nil, false, err
	}
	key, ok := claimOf(v)
	if !ok {
		return nil, true, nil
	}
	if pv == nil {
		class, err := r.classOf(ctx, v, st)
		if err != nil {
			return nil, false, waitFor("%v", err)
		}
		pv = persistentVolumeOf(v, key, class, r.driver)
		if err := r.client.Create(ctx, pv); err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, false, fmt.Errorf("make PersistentVolume %s: %w", pv.Name, err)
		}
	}
	claim, err := r.claimFor(ctx, v, key, pv, st)
	if err != nil {
		return nil, false, err
	}
	if err := r.reserve(ctx, pv, claim); err != nil {
		return nil, false, err
	}
	made := &v1alpha1.RecoveredClaim{Volume: v.ID.String(), Claim: key.Name, PersistentVolume: pv.Name, Size: quantity(v.SizeBytes)}
	return made, claim.Status.Phase == corev1.ClaimBound, nil
}

// claimFor returns the claim of a volume, made now or before. What is being deleted is
// waited for: it would take the other of the two along, or be of no use to it.
func (r *recoverer) claimFor(ctx context.Context, v *fleet.Volume, key types.NamespacedName, pv *corev1.PersistentVolume, st group.State) (*corev1.PersistentVolumeClaim, error) {
	claim := &corev1.PersistentVolumeClaim{}
	err := r.client.Get(ctx, key, claim)
	if apierrors.IsNotFound(err) {
		if pv.DeletionTimestamp != nil {
			return nil, waitFor("PersistentVolume %s is being deleted; another one is made when it is gone", pv.Name)
		}
		claim = persistentVolumeClaimOf(v, key, pv, groupOfName(st.Name))
		err = r.client.Create(ctx, claim)
	}
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil, fail("make claim %s: %w", key, err)
	case err != nil:
		return nil, fmt.Errorf("make claim %s: %w", key, err)
	case claim.DeletionTimestamp != nil:
		return nil, waitFor("claim %s is being deleted; another one is made when it is gone", key)
	}
	return claim, nil
}

// reserve gives a volume that remembers an earlier claim of the same name to the
// present one. Kubernetes never does: the volume of a claim that was deleted, while another site was the primary,
// is kept as Released, and a claim that names it then waits for ever.
func (r *recoverer) reserve(ctx context.Context, pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	ref := pv.Spec.ClaimRef
	if ref == nil || ref.UID == "" || ref.UID == claim.UID || ref.Namespace != claim.Namespace || ref.Name != claim.Name || claim.Spec.VolumeName != pv.Name {
		return nil
	}
	before := pv.DeepCopy()
	ref.UID, ref.ResourceVersion = claim.UID, ""
	if err := r.client.Patch(ctx, pv, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("reserve PersistentVolume %s for claim %s: %w", pv.Name, client.ObjectKeyFromObject(claim), err)
	}
	return nil
}

// classOf is the class of the claims that a failover makes.
func (r *recoverer) classOf(ctx context.Context, v *fleet.Volume, st group.State) (string, error) {
	class, err := replicaClass(ctx, r.client, st.Settings.ReplicateTo, v.Attributes[replication.AttributeClass])
	if err != nil {
		return "", err
	}
	return class.Name, nil
}

// groupOfName is a group's name within its namespace.
func groupOfName(whole string) string {
	key, _ := groupKey(whole)
	return key.Name
}

// adoptionOf is a volume as CSI has to know it.
func adoptionOf(v *fleet.Volume, st group.State) controller.Adoption {
	out := controller.Adoption{ID: v.ID, Name: v.Name, SizeBytes: v.SizeBytes, Group: st.Name, Settings: st.Settings,
		BlockBytes: 512, FSType: v.Attributes[replication.AttributeFSType]}
	if n, err := strconv.Atoi(v.Attributes[replication.AttributeBlockBytes]); err == nil {
		out.BlockBytes = n
	}
	if v.Placement != nil {
		out.Topology = v.Placement.Topology
	}
	if key, ok := claimOf(v); ok {
		out.Claim = key.String()
	}
	return out
}

// persistentVolumeOf is a volume as Kubernetes has to know it: kept when its
// claim is deleted, because what a failover has brought is the only copy here.
func persistentVolumeOf(v *fleet.Volume, claim types.NamespacedName, class, driver string) *corev1.PersistentVolume {
	mode := corev1.PersistentVolumeMode(orDefault(v.Attributes[replication.AttributeVolumeMode], string(corev1.PersistentVolumeFilesystem)))
	source := &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: v.ID.String()}
	if fs := v.Attributes[replication.AttributeFSType]; fs != "" {
		source.VolumeAttributes = map[string]string{csikeys.FSType: fs}
		if mode == corev1.PersistentVolumeFilesystem {
			source.FSType = fs
		}
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: volumePrefix + v.ID.String(), Labels: map[string]string{managedBy: managedVal},
			Annotations: map[string]string{provisionedBy: driver}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: *quantity(v.SizeBytes)},
			AccessModes:                   splitModes(v.Attributes[replication.AttributeAccessModes]),
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			StorageClassName:              class,
			VolumeMode:                    &mode,
			ClaimRef:                      &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name},
			PersistentVolumeSource:        corev1.PersistentVolumeSource{CSI: source},
			NodeAffinity:                  affinityOf(v.Placement),
		},
	}
}

// affinityOf says that a node needs one of the sets of labels; nil: any node
// does.
func affinityOf(p *fleet.Placement) *corev1.VolumeNodeAffinity {
	if p == nil || len(p.Topology) == 0 {
		return nil
	}
	var terms []corev1.NodeSelectorTerm
	for _, labels := range p.Topology {
		var term corev1.NodeSelectorTerm
		for key, value := range labels {
			term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}})
		}
		slices.SortFunc(term.MatchExpressions, func(a, b corev1.NodeSelectorRequirement) int { return strings.Compare(a.Key, b.Key) })
		terms = append(terms, term)
	}
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: terms}}
}

// persistentVolumeClaimOf is the claim that the volume had at the primary. It
// names its group itself: what named it there, a workload or a namespace, may
// not do so here.
func persistentVolumeClaimOf(v *fleet.Volume, key types.NamespacedName, pv *corev1.PersistentVolume, inGroup string) *corev1.PersistentVolumeClaim {
	labels := map[string]string{}
	for attribute, value := range v.Attributes {
		if name, ok := strings.CutPrefix(attribute, labelAttribute); ok {
			labels[name] = value
		}
	}
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, Labels: labels},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      pv.Spec.AccessModes,
			VolumeMode:       pv.Spec.VolumeMode,
			StorageClassName: &pv.Spec.StorageClassName,
			VolumeName:       pv.Name,
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: *quantity(v.SizeBytes)}},
		},
	}
	if checkGroup("", inGroup) == nil {
		claim.Annotations = map[string]string{AnnotationGroup: inGroup}
	}
	return claim
}
