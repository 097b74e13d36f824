package enginepod

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// pods are those of one volume.
type pods struct {
	// engine has the volume, or will have; nil: there is none.
	engine *corev1.Pod
	// successor was made to follow it, on its node; nil: there is none.
	successor *corev1.Pod
	// strays are neither: successors of a pod that was followed by another one.
	strays []*corev1.Pod
}

// podsOf finds a volume's pods, by name: nobody can hide one by its labels. A pod
// that names no predecessor which is there is an engine: of a predecessor that
// is gone it has taken the place. ErrForeign.
func (e *Engines) podsOf(ctx context.Context, volume string) (pods, error) {
	var all []corev1.Pod
	for _, name := range []string{Name(volume), kubenames.EngineB(volume)} {
		pod, err := e.cfg.Client.CoreV1().Pods(e.cfg.Namespace).Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return pods{}, fmt.Errorf("get engine pod %s: %w", name, err)
		case pod.Labels[labelVolume] != volume:
			return pods{}, fmt.Errorf("pod %s/%s: %w: remove it", pod.Namespace, pod.Name, ErrForeign)
		default:
			all = append(all, *pod)
		}
	}
	return arrange(all), nil
}

func arrange(all []corev1.Pod) pods {
	var p pods
	for i := range all {
		pod := &all[i]
		switch {
		case follows(pod, all):
		case p.engine == nil:
			p.engine = pod
		case pod.CreationTimestamp.Before(&p.engine.CreationTimestamp):
			p.strays = append(p.strays, p.engine)
			p.engine = pod
		default:
			p.strays = append(p.strays, pod)
		}
	}
	for i := range all {
		pod := &all[i]
		switch {
		case !follows(pod, all):
		case pod.Annotations[annotationSucceeds] == string(p.engine.UID):
			p.successor = pod
		default:
			p.strays = append(p.strays, pod)
		}
	}
	return p
}

// follows reports whether a pod's predecessor is there.
func follows(pod *corev1.Pod, all []corev1.Pod) bool {
	for i := range all {
		if pod.Annotations[annotationSucceeds] == string(all[i].UID) {
			return true
		}
	}
	return false
}

// removeStrays removes what an interrupted handover may have left, and reports
// whether there was anything.
func (e *Engines) removeStrays(ctx context.Context, p pods) (any bool, err error) {
	for _, stray := range p.strays {
		if err := e.remove(ctx, stray); err != nil {
			return true, err
		}
	}
	return len(p.strays) > 0, nil
}

// create makes a pod; nil if there is one of its name.
func (e *Engines) create(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	made, err := e.cfg.Client.CoreV1().Pods(e.cfg.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("make engine pod %s: %w", pod.Name, err)
	}
	return made, nil
}

// succeed returns the successor of an engine's pod, which is made if there is
// none that can do; nil if a pod has come meanwhile. ErrAlone if its claims allow
// one pod only.
func (e *Engines) succeed(ctx context.Context, s Spec, p pods) (*corev1.Pod, error) {
	if p.successor != nil && p.successor.DeletionTimestamp == nil && !ended(p.successor) {
		return p.successor, nil
	}
	if p.successor != nil {
		if err := e.remove(ctx, p.successor); err != nil {
			return nil, err
		}
	}
	shared, err := e.shared(ctx, s)
	if err != nil {
		return nil, err
	}
	if !shared {
		return nil, fmt.Errorf("engine pod %s: %w", p.engine.Name, ErrAlone)
	}
	node := p.engine.Spec.NodeName
	if err := e.awaitDetached(ctx, s.Volume, node); err != nil {
		return nil, err
	}
	s.Node = node
	pod, err := e.build(ctx, s)
	if err != nil {
		return nil, err
	}
	pod.Name = otherName(s.Volume, p.engine.Name)
	pod.Annotations[annotationSucceeds] = string(p.engine.UID)
	if s.Lease {
		// Both are on one machine, where one lock keeps them apart. What the
		// lease tells apart is machines.
		pod.Spec.Containers[0].Args = append(pod.Spec.Containers[0].Args, argLeaseID+leaseID(p.engine))
	}
	return e.create(ctx, pod)
}

// otherName is the one of a volume's two names that a pod does not have.
func otherName(volume, name string) string {
	if name == Name(volume) {
		return kubenames.EngineB(volume)
	}
	return Name(volume)
}

// argLeaseID is how a pod is told under which name it holds the lease.
const argLeaseID = "--lease-id="

// leaseID is the name under which a pod holds the lease: its own uid, unless it
// has followed another one.
func leaseID(pod *corev1.Pod) string {
	for _, arg := range pod.Spec.Containers[0].Args {
		if id, found := strings.CutPrefix(arg, argLeaseID); found {
			return id
		}
	}
	return string(pod.UID)
}

// shared reports whether two pods of one node may use the volume's claims.
func (e *Engines) shared(ctx context.Context, s Spec) (bool, error) {
	claims, err := e.claims(ctx, s)
	return err == nil && !slices.ContainsFunc(claims, isForOnePod), err
}

// isForOnePod reports whether two pods of one node may not use a claim.
func isForOnePod(claim *corev1.PersistentVolumeClaim) bool {
	return slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod)
}
