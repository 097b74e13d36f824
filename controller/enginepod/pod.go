package enginepod

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// build makes the pod of an engine. Its backing claim is its controller: the
// claim is there as long as the pod is, and `kubectl drain` evicts no pod that
// has none.
func (e *Engines) build(ctx context.Context, s Spec) (*corev1.Pod, error) {
	file, err := e.cfg.template()
	if err != nil {
		return nil, err
	}
	t := &file.Template
	digest, err := digestOf(t)
	if err != nil {
		return nil, err
	}
	claims, err := e.claims(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("make engine pod %s: %w", Name(s.Volume), err)
	}
	claim := claims[0]
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: Name(s.Volume), Namespace: e.cfg.Namespace,
		Labels: maps.Clone(t.Labels), Annotations: maps.Clone(t.Annotations),
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(claim, corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"))}}, Spec: t.Spec}
	// It would hold up the deletion of the claim, which waits for the pod.
	pod.OwnerReferences[0].BlockOwnerDeletion = nil
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	maps.Copy(pod.Labels, e.labels(s.Volume))
	maps.Copy(pod.Labels, groupLabel(s))
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[annotationTemplate] = digest
	if s.Claim != "" {
		pod.Annotations[annotationClaim] = s.Claim
	}
	c := &pod.Spec.Containers[0]
	c.Args = append(c.Args, "--volume="+s.Volume, "--store-dir="+storeDir)
	if !slices.ContainsFunc(claims, isForOnePod) {
		c.Args = append(c.Args, "--handover-wait="+handoverWait.String())
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: "POD_UID", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.uid"}}})
	mount(pod, "store", s.Store, storeDir)
	if s.Journal != "" {
		c.Args = append(c.Args, "--journal-dir="+journalDir)
		mount(pod, "journal", s.Journal, journalDir)
	}
	if s.Lease {
		c.Args = append(c.Args, "--lease="+Name(s.Volume))
	} else {
		no := false
		pod.Spec.AutomountServiceAccountToken = &no
	}
	if s.Node != "" {
		bind(pod, s.Node)
	}
	return pod, nil
}

// claims are the volume's backing claims, that of the store first.
func (e *Engines) claims(ctx context.Context, s Spec) ([]*corev1.PersistentVolumeClaim, error) {
	var all []*corev1.PersistentVolumeClaim
	for _, name := range []string{s.Store, s.Journal} {
		if name == "" {
			continue
		}
		claim, err := e.cfg.Client.CoreV1().PersistentVolumeClaims(e.cfg.Namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("%w: %s", ErrNoClaim, name)
		}
		if err != nil {
			return nil, fmt.Errorf("get claim %s: %w", name, err)
		}
		all = append(all, claim)
	}
	return all, nil
}

func (e *Engines) labels(volume string) map[string]string {
	return map[string]string{labelComponent: componentEngine, labelManagedBy: managedBy, labelVolume: volume, labelSite: e.cfg.Site}
}

// groupLabel is the label of the group that a volume is in.
func groupLabel(s Spec) map[string]string {
	if s.Group == "" {
		return nil
	}
	return map[string]string{labelGroup: kubenames.GroupHash(s.Group)}
}

// mount adds a claim to the pod's one container.
func mount(pod *corev1.Pod, name, claim, path string) {
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}})
	c := &pod.Spec.Containers[0]
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: path})
}

// nodeField is the one field that node affinity can ask for.
const nodeField = "metadata.name"

// bind adds to what the template asks of nodes that it is this one.
func bind(pod *corev1.Pod, node string) {
	if pod.Spec.Affinity == nil {
		pod.Spec.Affinity = &corev1.Affinity{}
	}
	a := pod.Spec.Affinity
	if a.NodeAffinity == nil {
		a.NodeAffinity = &corev1.NodeAffinity{}
	}
	if a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{}
	}
	selector := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if len(selector.NodeSelectorTerms) == 0 {
		selector.NodeSelectorTerms = []corev1.NodeSelectorTerm{{}}
	}
	for i := range selector.NodeSelectorTerms {
		term := &selector.NodeSelectorTerms[i]
		term.MatchFields = append(term.MatchFields, corev1.NodeSelectorRequirement{Key: nodeField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}})
	}
}

// boundTo is the node that a pod runs on, or is bound to; empty: any.
func boundTo(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, r := range term.MatchFields {
			if r.Key == nodeField && len(r.Values) == 1 {
				return r.Values[0]
			}
		}
	}
	return ""
}
