package backing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// annotationSelectedNode tells a provisioner of a class that binds at first
// consumer which node the scheduler has chosen. Of what a scheduler writes,
// nothing else is copied.
const annotationSelectedNode = "volume.kubernetes.io/selected-node"

// Config of Claims; all is required.
type Config struct {
	// Client needs, in the namespace, the rights get, list, watch, create,
	// update and delete on claims, and get, list, watch on events and pods; and
	// get on storage classes, CSI drivers and volumes of the cluster.
	Client    kubernetes.Interface
	Namespace string
	// Driver is this driver's name, which no backing class may have as its
	// provisioner.
	Driver string
}

// Claims makes backing volumes as PersistentVolumeClaims. Its methods may be
// called concurrently, but not two that change one volume.
type Claims struct{ config Config }

// New returns Claims.
func New(c Config) (*Claims, error) {
	if c.Client == nil || c.Namespace == "" || c.Driver == "" {
		return nil, errors.New("backing configuration: a required field is missing")
	}
	return &Claims{config: c}, nil
}

// part is one claim of a volume.
type part struct {
	name, label, class string
	sizeBytes          int64
}

func (s Spec) parts() []part {
	if s.JournalClass == "" {
		return []part{{kubenames.BackingClaim(s.Volume), kubenames.PartStore, s.Class, SizeBytes(s.VolumeBytes + s.JournalBytes)}}
	}
	return []part{
		{kubenames.BackingClaim(s.Volume), kubenames.PartStore, s.Class, SizeBytes(s.VolumeBytes)},
		{kubenames.JournalClaim(s.Volume), kubenames.PartJournal, s.JournalClass, JournalSizeBytes(s.JournalBytes)},
	}
}

// class returns a backing class that may be used.
func (c *Claims) class(ctx context.Context, name string) (*storagev1.StorageClass, error) {
	class, err := c.config.Client.StorageV1().StorageClasses().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%w: StorageClass %s does not exist: make it, or name another one in the parameters backingStorageClass and journalStorageClass", ErrClass, name)
	}
	if err != nil {
		return nil, fmt.Errorf("get StorageClass %s: %w", name, err)
	}
	if class.Provisioner == c.config.Driver {
		return nil, fmt.Errorf("%w: StorageClass %s is of %s itself: name a class of another provisioner", ErrClass, name, c.config.Driver)
	}
	return class, nil
}

func delaysBinding(class *storagev1.StorageClass) bool {
	return class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// claim returns the object that is wanted.
func (c *Claims) claim(s Spec, p part, class *storagev1.StorageClass) *corev1.PersistentVolumeClaim {
	filesystem := corev1.PersistentVolumeFilesystem
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Name: p.name, Namespace: c.config.Namespace,
			Labels: map[string]string{
				kubenames.LabelVolume: s.Volume, kubenames.LabelPart: p.label,
				kubenames.LabelSite: s.Site, kubenames.LabelGroup: kubenames.GroupHash(s.Group),
			},
			Annotations: map[string]string{kubenames.AnnotationGroup: s.Group},
		},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      []corev1.PersistentVolumeAccessMode{accessMode},
			StorageClassName: &class.Name,
			VolumeMode:       &filesystem,
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(p.sizeBytes, resource.BinarySI)},
			},
		},
	}
	if s.Claim != "" {
		claim.Annotations[kubenames.AnnotationClaim] = s.Claim
	}
	if s.Node != "" && delaysBinding(class) {
		claim.Annotations[annotationSelectedNode] = s.Node
	}
	return claim
}

// accessMode lets two pods of one node use a claim, as an engine and its
// successor do in a handover (docs/decisions/0008). That no other pod does is
// what the engine's own locks see to, and that no other node does the fence.
const accessMode = corev1.ReadWriteOnce

// get returns a claim of the volume; nil when there is none.
func (c *Claims) get(ctx context.Context, volume, name string) (*corev1.PersistentVolumeClaim, error) {
	claim, err := c.config.Client.CoreV1().PersistentVolumeClaims(c.config.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get claim %s: %w", name, err)
	}
	if claim.Labels[kubenames.LabelVolume] != volume {
		return nil, fmt.Errorf("%w: PersistentVolumeClaim %s/%s has no label %s=%s: delete or rename it",
			ErrForeign, c.config.Namespace, name, kubenames.LabelVolume, volume)
	}
	return claim, nil
}

// Claim is one that List found.
type Claim struct {
	Volume, Name, Part string
	Class              string
	For                string // NAMESPACE/NAME of the claim that the volume is for
	SizeBytes          int64  // requested
	Phase              string // Pending, Bound or Lost
	PersistentVolume   string // empty until it is bound
	Deleting           bool
}

// List returns every backing claim in the namespace, by name.
func (c *Claims) List(ctx context.Context) ([]Claim, error) {
	list, err := c.config.Client.CoreV1().PersistentVolumeClaims(c.config.Namespace).List(ctx, metav1.ListOptions{LabelSelector: kubenames.LabelVolume})
	if err != nil {
		return nil, fmt.Errorf("list backing claims: %w", err)
	}
	var found []Claim
	for _, claim := range list.Items {
		entry := Claim{
			Volume: claim.Labels[kubenames.LabelVolume], Name: claim.Name, Part: claim.Labels[kubenames.LabelPart],
			For: claim.Annotations[kubenames.AnnotationClaim], Phase: string(claim.Status.Phase),
			SizeBytes: claim.Spec.Resources.Requests.Storage().Value(), PersistentVolume: claim.Spec.VolumeName,
			Deleting: claim.DeletionTimestamp != nil,
		}
		if claim.Spec.StorageClassName != nil {
			entry.Class = *claim.Spec.StorageClassName
		}
		found = append(found, entry)
	}
	slices.SortFunc(found, func(a, b Claim) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

// sameLabels reports whether a claim has all labels that are wanted.
func sameLabels(has, wanted map[string]string) bool {
	merged := maps.Clone(has)
	maps.Copy(merged, wanted)
	return maps.Equal(merged, has)
}
