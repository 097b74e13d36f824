package preflight

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// sidecars are the containers beside the controller, and what does not work
// without each.
var sidecars = []struct {
	name     string
	required bool
	does     string
}{
	{"controller", true, "everything"},
	{"provisioner", true, "volumes are made and deleted by it"},
	{"attacher", true, "volumes are attached by it"},
	{"resizer", true, "volumes grow and are given settings by it"},
	{"snapshotter", false, "snapshots are taken by it: value sidecars.snapshotter.enabled of the chart"},
}

func (i *inspection) checkController(ctx context.Context) {
	const check = "controller"
	pod, err := i.ControllerPod(ctx)
	if err != nil {
		if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
			i.unseen(check, "", err)
			return
		}
		i.fail(check, "", err.Error(), "install Lockstep, or see why its controller does not start: kubectl -n "+i.DriverNamespace+" describe pods")
		return
	}
	for _, sidecar := range sidecars {
		container := containerNamed(pod, sidecar.name)
		object := pod.Name + "/" + sidecar.name
		switch {
		case container == nil && sidecar.required:
			i.fail(check, object, "the pod has no such container", sidecar.does+"; install the chart anew")
		case container == nil:
			i.warn(check, object, "the pod has no such container", sidecar.does)
		default:
			i.checkContainer(check, object, pod, sidecar.name)
		}
	}
	if container := containerNamed(pod, "controller"); container != nil {
		for _, argument := range container.Args {
			if name, is := strings.CutPrefix(argument, "--driver-name="); is && name != "" {
				i.driver = name
			}
		}
	}
}

func containerNamed(pod *corev1.Pod, name string) *corev1.Container {
	for n := range pod.Spec.Containers {
		if pod.Spec.Containers[n].Name == name {
			return &pod.Spec.Containers[n]
		}
	}
	return nil
}

// checkContainer looks whether a container runs and is ready.
func (i *inspection) checkContainer(check, object string, pod *corev1.Pod, name string) {
	remedy := fmt.Sprintf("kubectl -n %s logs %s -c %s", pod.Namespace, pod.Name, name)
	for _, status := range pod.Status.ContainerStatuses {
		if status.Name != name {
			continue
		}
		switch {
		case status.State.Waiting != nil:
			i.fail(check, object, "waiting: "+status.State.Waiting.Reason, remedy+" --previous")
		case status.State.Terminated != nil:
			i.fail(check, object, "ended: "+status.State.Terminated.Reason, remedy)
		case !status.Ready:
			i.fail(check, object, "runs and is not ready", remedy)
		case status.RestartCount > 0:
			i.ok(check, object, fmt.Sprintf("ready, %d restarts", status.RestartCount))
		default:
			i.ok(check, object, "ready")
		}
		return
	}
	i.fail(check, object, "not started", "kubectl -n "+pod.Namespace+" describe pod "+pod.Name)
}

func (i *inspection) checkDriver(ctx context.Context) {
	const check = "CSI driver"
	driver, err := i.Kube.StorageV1().CSIDrivers().Get(ctx, i.driver, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		i.fail(check, i.driver, "missing", "install the chart anew")
		return
	}
	if err != nil {
		i.unseen(check, i.driver, err)
		return
	}
	if wrong := wrongDriver(driver.Spec); wrong != "" {
		i.fail(check, i.driver, wrong, "install the chart anew; for what cannot be changed, delete the CSIDriver first")
		return
	}
	i.ok(check, i.driver, "there")
}

func wrongDriver(spec storagev1.CSIDriverSpec) string {
	switch {
	case spec.AttachRequired != nil && !*spec.AttachRequired:
		return "attachRequired is false, and attaching is what starts engines"
	case len(spec.VolumeLifecycleModes) > 0 && spec.VolumeLifecycleModes[0] != storagev1.VolumeLifecyclePersistent:
		return fmt.Sprintf("volumeLifecycleModes is %v, want Persistent", spec.VolumeLifecycleModes)
	}
	return ""
}
