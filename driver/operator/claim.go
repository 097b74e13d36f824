package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/replication"
)

// Claims implements controller.Claims with the API server. It keeps no cache:
// it is asked when a volume is made, about objects that have just changed.
type Claims struct {
	client client.Client
}

var _ controller.Claims = (*Claims)(nil)

// NewClaims returns what reads claims with the rights of config.
func NewClaims(config *rest.Config) (*Claims, error) {
	c, err := client.New(config, client.Options{Scheme: newScheme()})
	if err != nil {
		return nil, fmt.Errorf("make client for claims: %w", err)
	}
	return &Claims{c}, nil
}

// Claim implements controller.Claims.
func (c *Claims) Claim(ctx context.Context, namespace, name string) (controller.Claim, error) {
	var claim corev1.PersistentVolumeClaim
	err := c.client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &claim)
	if apierrors.IsNotFound(err) {
		return controller.Claim{}, fmt.Errorf("claim %s/%s: %w", namespace, name, controller.ErrNotFound)
	}
	if err != nil {
		return controller.Claim{}, fmt.Errorf("read claim %s/%s: %w: %w", namespace, name, controller.ErrUnavailable, err)
	}
	d, err := decider{c.client, c.client}.decide(ctx, &claim)
	if err != nil && !errors.Is(err, controller.ErrInvalid) {
		err = fmt.Errorf("%w: %w", controller.ErrUnavailable, err) // the API server's: it may be asked again
	}
	if err != nil {
		return controller.Claim{}, err
	}
	out := controller.Claim{Group: d.group, AsOf: claim.Annotations[AnnotationAsOf], Attributes: attributesOf(&claim), Node: claim.Annotations[annotationSelectedNode]}
	if member, ok := claim.Annotations[AnnotationMember]; ok {
		if problems := validation.IsDNS1123Subdomain(member); len(problems) > 0 {
			return out, fmt.Errorf("annotation %s of claim %s/%s is %q: want the name of a claim in its namespace: %w",
				AnnotationMember, namespace, name, member, controller.ErrInvalid)
		}
		out.Member = namespace + "/" + member
	}
	out.Settings, err = chosenFor(ctx, c.client, d.group)
	return out, err
}

// chosenFor are the settings that a group's resource has; nil without one.
func chosenFor(ctx context.Context, reader client.Reader, name string) (*group.Settings, error) {
	key, ok := groupKey(name)
	if !ok {
		return nil, nil
	}
	var resource v1alpha1.ConsistencyGroup
	err := reader.Get(ctx, key, &resource)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ConsistencyGroup %s: %w: %w", name, controller.ErrUnavailable, err)
	}
	chosen, err := settingsOf(&resource.Spec)
	return &chosen, err
}

// settingsOf are the settings that a resource has; zero where it has none.
func settingsOf(spec *v1alpha1.ConsistencyGroupSpec) (group.Settings, error) {
	s := group.Settings{ReplicateTo: string(spec.ReplicateTo), History: spec.History}
	var errs [3]error
	s.CheckpointInterval, errs[0] = spec.CheckpointInterval.Parse()
	s.BarrierTimeout, errs[1] = spec.BarrierTimeout.Parse()
	s.Window, errs[2] = spec.Window.Parse()
	if spec.JournalSize != nil {
		s.JournalBytes = spec.JournalSize.Value()
	}
	for _, err := range errs {
		if err != nil {
			return s, fmt.Errorf("%w: %w", controller.ErrInvalid, err)
		}
	}
	return s, nil
}

// labelAttribute goes before the key of a claim's label among its attributes.
const labelAttribute = "label:"

// carriedLabels are those labels of a claim that go to the other site: what
// selects and describes an application's objects.
var carriedLabels = []string{"app", "app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component", "app.kubernetes.io/part-of"}

// attributesOf is what the other site needs for an equal claim, beside the size,
// which is announced anyway. Labels that find no room are left out.
func attributesOf(claim *corev1.PersistentVolumeClaim) map[string]string {
	out := map[string]string{
		replication.AttributeNamespace:   claim.Namespace,
		replication.AttributeName:        claim.Name,
		replication.AttributeAccessModes: joinModes(claim.Spec.AccessModes),
		replication.AttributeVolumeMode:  string(corev1.PersistentVolumeFilesystem),
	}
	if claim.Spec.VolumeMode != nil {
		out[replication.AttributeVolumeMode] = string(*claim.Spec.VolumeMode)
	}
	if claim.Spec.StorageClassName != nil {
		out[replication.AttributeClass] = *claim.Spec.StorageClassName
	}
	for _, key := range carriedLabels {
		value, ok := claim.Labels[key]
		if !ok {
			continue
		}
		out[labelAttribute+key] = value
		// The controller adds file system and block size.
		if replication.CheckAttributes(withRoom(out)) != nil {
			delete(out, labelAttribute+key)
		}
	}
	return out
}

func withRoom(attributes map[string]string) map[string]string {
	full := map[string]string{replication.AttributeFSType: "ext4", replication.AttributeBlockBytes: "4096"}
	for key, value := range attributes {
		full[key] = value
	}
	return full
}

func joinModes(modes []corev1.PersistentVolumeAccessMode) string {
	var names []string
	for _, mode := range modes {
		names = append(names, string(mode))
	}
	return strings.Join(names, ",")
}

func splitModes(text string) []corev1.PersistentVolumeAccessMode {
	var modes []corev1.PersistentVolumeAccessMode
	for name := range strings.SplitSeq(text, ",") {
		if mode := corev1.PersistentVolumeAccessMode(name); name != "" && !slices.Contains(modes, mode) {
			modes = append(modes, mode)
		}
	}
	if modes == nil {
		modes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	return modes
}
