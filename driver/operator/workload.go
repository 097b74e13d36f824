package operator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
)

// workloadKinds are those whose annotations are watched. The owners of other
// kinds are read when a pod of theirs appears.
func workloadKinds() []client.Object {
	return []client.Object{&appsv1.Deployment{}, &appsv1.ReplicaSet{}, &appsv1.StatefulSet{}, &appsv1.DaemonSet{}, &batchv1.Job{}, &batchv1.CronJob{}}
}

// errUnscalable: nothing that a pod belongs to can be scaled.
var errUnscalable = errors.New("cannot be scaled")

// scaler scales what uses a group's claims. It reads past the cache, because it
// decides whether something still runs.
type scaler struct {
	client  client.Client
	decider decider
}

// workloadOf is the uppermost owner of a pod that has a size, with the size. For
// a Job, and for the CronJob that makes it, that is 1 while it is not suspended.
func (s scaler) workloadOf(ctx context.Context, pod *corev1.Pod) (v1alpha1.ScaledWorkload, error) {
	owners, err := s.decider.owners(ctx, pod)
	if err != nil {
		return v1alpha1.ScaledWorkload{}, err
	}
	for i := len(owners) - 1; i >= 0; i-- {
		size, ok, err := s.size(ctx, owners[i])
		if err != nil {
			return v1alpha1.ScaledWorkload{}, err
		}
		if ok {
			return v1alpha1.ScaledWorkload{APIVersion: owners[i].GetAPIVersion(), Kind: owners[i].GetKind(), Name: owners[i].GetName(), Replicas: size}, nil
		}
	}
	return v1alpha1.ScaledWorkload{}, fmt.Errorf("pod %s: %w: stop it", pod.Name, errUnscalable)
}

// size returns how big an object is; ok is false if it has no size that this
// controller may change.
func (s scaler) size(ctx context.Context, o *unstructured.Unstructured) (size int32, ok bool, err error) {
	if path := suspendPath(o); path != nil {
		suspended, _, err := unstructured.NestedBool(o.Object, path...)
		if suspended || err != nil {
			return 0, true, err
		}
		return 1, true, nil
	}
	scale, err := s.scaleOf(ctx, o)
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	size, err = replicas(scale)
	return size, err == nil, err
}

// scaleOf reads an object's subresource scale.
func (s scaler) scaleOf(ctx context.Context, o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	scale := &unstructured.Unstructured{}
	scale.SetGroupVersionKind(autoscalingv1.SchemeGroupVersion.WithKind("Scale"))
	return scale, s.client.SubResource("scale").Get(ctx, o, scale)
}

// replicas is the wanted size; one that is not written is 0.
func replicas(scale *unstructured.Unstructured) (int32, error) {
	n, _, err := unstructured.NestedInt64(scale.Object, "spec", "replicas")
	return int32(n), err
}

// suspendPath is where an object that is stopped by suspending it says so.
func suspendPath(o *unstructured.Unstructured) []string {
	if strings.HasPrefix(o.GetAPIVersion(), "batch/") && (o.GetKind() == "Job" || o.GetKind() == "CronJob") {
		return []string{"spec", "suspend"}
	}
	return nil
}

// scale gives a workload a size, unless it has it; no error if it is gone. from
// is the size that it has to have; with another one it is left alone, because
// somebody else has changed it meanwhile. nil: any.
//
// still says whether the caller may go on, and is asked between the reading of the workload and
// its change, which the API server refuses if somebody else has changed it since it was read. So a
// controller that was suspended, and replaced, changes nothing that its successor has.
func (s scaler) scale(ctx context.Context, namespace string, w *v1alpha1.ScaledWorkload, size int32, from *int32, still func() error) error {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion(w.APIVersion)
	o.SetKind(w.Kind)
	o.SetNamespace(namespace)
	o.SetName(w.Name)
	err := s.decider.objects.Get(ctx, types.NamespacedName{Namespace: namespace, Name: w.Name}, o)
	if err == nil && suspendPath(o) != nil {
		err = s.suspend(ctx, o, size == 0, still)
	} else if err == nil {
		err = s.setScale(ctx, o, size, from, still)
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("scale %s %s to %d: %w", w.Kind, w.Name, size, err)
	}
	return nil
}

func (s scaler) setScale(ctx context.Context, o *unstructured.Unstructured, size int32, from *int32, still func() error) error {
	scale, err := s.scaleOf(ctx, o) // with its version
	if err != nil {
		return err
	}
	now, err := replicas(scale)
	if err != nil || now == size || from != nil && now != *from {
		return err
	}
	if err := unstructured.SetNestedField(scale.Object, int64(size), "spec", "replicas"); err != nil {
		return err
	}
	if err := still(); err != nil {
		return err
	}
	return s.client.SubResource("scale").Update(ctx, o, client.WithSubResourceBody(scale))
}

func (s scaler) suspend(ctx context.Context, o *unstructured.Unstructured, suspended bool, still func() error) error {
	before := o.DeepCopy()
	if is, _, err := unstructured.NestedBool(o.Object, suspendPath(o)...); err != nil || is == suspended {
		return err
	}
	if err := unstructured.SetNestedField(o.Object, suspended, suspendPath(o)...); err != nil {
		return err
	}
	if err := still(); err != nil {
		return err
	}
	return s.client.Patch(ctx, o, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}
