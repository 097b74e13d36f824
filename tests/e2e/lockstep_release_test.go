//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	// release is the Helm release's name, the first part of its objects' names.
	release = "lockstep"
	// provisioner is the driver's name that values-kit.yaml leaves at its default.
	provisioner = "csi.lockstep.dev"
)

// releases are the installations that this run made, and takes away again.
var releases struct {
	sync.Mutex
	of map[*Cluster]error // nil: it is installed
	in []*Cluster         // that this run installed in
}

// lockstepOn returns a cluster with Lockstep in it. The run's first test that
// asks installs it; a release that was there before is used, and stays.
func lockstepOn(t *testing.T, c *Cluster) *Cluster {
	t.Helper()
	releases.Lock()
	defer releases.Unlock()
	err, done := releases.of[c]
	if !done {
		err = installRelease(t.Context(), c, t.TempDir())
		if releases.of == nil {
			releases.of = map[*Cluster]error{}
		}
		releases.of[c] = err
	}
	if err != nil {
		c.Dump(t.Context(), t.Output(), SystemNamespace)
		t.Fatalf("Lockstep is not installed in cluster %s: %v", c.Name, err)
	}
	return c
}

func installRelease(ctx context.Context, c *Cluster, dir string) error {
	_, err := c.Client.AppsV1().DaemonSets(SystemNamespace).Get(ctx, release+"-node", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	releases.in = append(releases.in, c) // also when it fails halfway
	if err := c.Apply(ctx, "", Manifests{systemNamespace()}); err != nil {
		return err
	}
	set := "site=" + c.Name
	if env.B != nil {
		if err := c.makePeerSecret(ctx); err != nil {
			return err
		}
		set += ",gateway.enabled=true"
	}
	_, err = c.Helm(ctx, dir, "install", release, Chart, "--namespace", SystemNamespace, "--values", KitValues, "--set", set, "--wait", "--timeout", installTimeout.String())
	return err
}

// removeReleases takes away what this run's tests have installed, with the
// definitions that Helm keeps.
func removeReleases(ctx context.Context) error {
	releases.Lock()
	defer releases.Unlock()
	var errs []error
	for _, c := range releases.in {
		dir, err := os.MkdirTemp("", "ls-e2e-helm-")
		if err != nil {
			return err
		}
		_, err = c.Helm(ctx, dir, "uninstall", release, "--namespace", SystemNamespace, "--wait", "--ignore-not-found")
		errs = append(errs, err, c.Delete(ctx, "", Manifests{systemNamespace()}), removeDefinitions(ctx, c), os.RemoveAll(dir))
	}
	releases.in, releases.of = nil, nil
	return errors.Join(errs...)
}

// removeDefinitions deletes the definitions of Lockstep's own kinds.
func removeDefinitions(ctx context.Context, c *Cluster) error {
	definitions := c.Dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	list, err := definitions.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range list.Items {
		if group, _, _ := unstructured.NestedString(d.Object, "spec", "group"); group == "lockstep.dev" {
			errs = append(errs, definitions.Delete(ctx, d.GetName(), metav1.DeleteOptions{}))
		}
	}
	return errors.Join(errs...)
}

// Class says what is particular about a StorageClass of a test.
type Class struct {
	Over        string // the backing class
	Immediate   bool   // not WaitForFirstConsumer
	Parameters  map[string]string
	Options     []string // of the mount
	NoExpansion bool
}

// Class makes a StorageClass of journaled volumes, which goes with the
// namespace, and returns its name.
func (n *Namespace) Class(class Class) string {
	n.t.Helper()
	parameters := map[string]string{"backingStorageClass": class.Over}
	maps.Copy(parameters, class.Parameters)
	binding := "WaitForFirstConsumer"
	if class.Immediate {
		binding = "Immediate"
	}
	var lines strings.Builder
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		fmt.Fprintf(&lines, "  %s: %q\n", key, parameters[key])
	}
	number := 0
	for {
		name := fmt.Sprintf("%s-%d", n.Namespace, number)
		_, err := n.Client.StorageV1().StorageClasses().Get(n.t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			n.Apply(fmt.Sprintf(classText, name, provisioner, binding, !class.NoExpansion, strings.Join(class.Options, ", "), lines.String()))
			return name
		}
		if err != nil {
			n.t.Fatalf("get storage class %s: %v", name, err)
		}
		number++
	}
}

const classText = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: %s}
provisioner: %s
volumeBindingMode: %s
allowVolumeExpansion: %t
mountOptions: [%s]
parameters:
%s`

// VolumeID waits until a claim of a journaled volume is bound and returns the
// volume's id.
func (n *Namespace) VolumeID(claim string) string {
	n.t.Helper()
	volume := n.Volume(claim)
	if volume.Spec.CSI == nil || volume.Spec.CSI.Driver != provisioner {
		n.t.Fatalf("claim %s is bound to %s, which is no journaled volume", claim, volume.Name)
	}
	return volume.Spec.CSI.VolumeHandle
}

// EnginePod returns the pod of a volume's engine, or nil. Of two, in the middle
// of a handover, it is the one that stays, or else the one that was there first.
func (c *Cluster) EnginePod(ctx context.Context, volume string) (*corev1.Pod, error) {
	list, err := c.Client.CoreV1().Pods(SystemNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=engine," + volumeLabel + "=" + volume})
	if err != nil {
		return nil, err
	}
	var found *corev1.Pod
	for i := range list.Items {
		pod := &list.Items[i]
		switch {
		case found == nil, found.DeletionTimestamp != nil && pod.DeletionTimestamp == nil:
			found = pod
		case pod.DeletionTimestamp == nil && pod.CreationTimestamp.Before(&found.CreationTimestamp):
			found = pod
		}
	}
	return found, nil
}

// nodePlugins returns the pods of the node plugin by node.
func (c *Cluster) nodePlugins(ctx context.Context) (map[string]corev1.Pod, error) {
	list, err := c.Client.CoreV1().Pods(SystemNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=node"})
	if err != nil {
		return nil, err
	}
	all := map[string]corev1.Pod{}
	for _, pod := range list.Items {
		all[pod.Spec.NodeName] = pod
	}
	return all, nil
}

// AwaitVolumeGone waits until nothing of a volume is left: no object in
// SystemNamespace, no backing volume, and no mount or loop device on a node.
func (n *Namespace) AwaitVolumeGone(volume string) {
	n.t.Helper()
	WaitFor(n.t, volumeTimeout, "everything of volume "+volume+" to go", func(ctx context.Context) error {
		return errors.Join(n.objectsOf(ctx, volume), n.devicesOf(ctx, volume))
	})
}

func (c *Cluster) objectsOf(ctx context.Context, volume string) error {
	var errs []error
	for _, kind := range []schema.GroupVersionResource{
		{Version: "v1", Resource: "pods"}, {Version: "v1", Resource: "persistentvolumeclaims"},
		{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}, {Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"},
	} {
		list, err := c.Dynamic.Resource(kind).Namespace(SystemNamespace).List(ctx, metav1.ListOptions{LabelSelector: volumeLabel + "=" + volume})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, object := range list.Items {
			errs = append(errs, fmt.Errorf("%s %s is there", kind.Resource, object.GetName()))
		}
	}
	volumes, err := c.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, v := range volumes.Items {
		if claim := v.Spec.ClaimRef; claim != nil && claim.Namespace == SystemNamespace && strings.Contains(claim.Name, volume) {
			errs = append(errs, fmt.Errorf("backing volume %s is %s: %s", v.Name, v.Status.Phase, v.Status.Message))
		}
	}
	return errors.Join(errs...)
}

// devicesOf names the mounts and loop devices that nodes have of a volume.
func (c *Cluster) devicesOf(ctx context.Context, volume string) error {
	plugins, err := c.nodePlugins(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for node, pod := range plugins {
		out, err := c.ExecIn(ctx, SystemNamespace, pod.Name, "node", "sh", "-c", "grep "+volume+" /proc/mounts /sys/block/loop*/loop/backing_file; true")
		if err != nil {
			errs = append(errs, err)
		} else if out != "" {
			errs = append(errs, fmt.Errorf("node %s has %s", node, out))
		}
	}
	return errors.Join(errs...)
}
