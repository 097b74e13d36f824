//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestKitExec checks what a command in a pod is given and what comes back.
func TestKitExec(t *testing.T) {
	t.Parallel()
	ns := env.A.NewNamespace(t)
	ns.RunPod(Pod{Name: "shell"})
	var out, complaints bytes.Buffer
	err := ns.Stream(t.Context(), ns.Namespace, "shell", Streams{In: strings.NewReader("given"), Out: &out, Err: &complaints},
		"sh", "-c", "cat; echo wrong >&2; exit 7")
	var exit ExitError
	if !errors.As(err, &exit) || exit.Status != 7 {
		t.Errorf("a command that ends with 7: %v", err)
	}
	if out.String() != "given" || complaints.String() != "wrong\n" {
		t.Errorf("standard output %q, standard error %q", out.String(), complaints.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := ns.Stream(ctx, ns.Namespace, "shell", Streams{Out: writer}, "sh", "-c", "echo runs; sleep 3600")
		ended <- errors.Join(err, writer.Close())
	}()
	line, err := bufio.NewReader(reader).ReadString('\n')
	if line != "runs\n" {
		t.Errorf("the command printed %q: %v", line, err)
	}
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a command that outlasts its context: %v", err)
		}
	case <-time.After(podTimeout):
		t.Error("a command that outlasts its context does not come back")
	}
}

// TestKitApply applies objects of a namespace and of the cluster, a definition
// and an object of that kind among them.
func TestKitApply(t *testing.T) {
	before, err := env.A.TakeInventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Run("apply", func(t *testing.T) {
		ns := env.A.NewNamespace(t)
		ns.Apply(applied)
		ns.Apply(strings.ReplaceAll(applied, "first", "second")) // what is there is changed
		got, err := ns.Client.CoreV1().ConfigMaps(ns.Namespace).Get(t.Context(), "settings", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Data["value"] != "second" {
			t.Errorf("the value is %q", got.Data["value"])
		}
	})
	if err := env.A.Leftovers(t.Context(), before); err != nil {
		t.Error(err)
	}
}

const applied = `
# A comment makes no object.
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: probes.e2e.lockstep.dev}
spec:
  group: e2e.lockstep.dev
  scope: Namespaced
  names: {kind: Probe, plural: probes}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {value: {type: string}}}}}}
---
apiVersion: e2e.lockstep.dev/v1
kind: Probe
metadata: {name: probe}
spec: {value: first}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: settings}
  data: {value: first}
`

// TestKitDump checks that what explains a failure is in a dump.
func TestKitDump(t *testing.T) {
	t.Parallel()
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: env.BackingClasses[0]})
	ns.RunPod(Pod{Name: "talker", Script: "echo here I am; " + idle, Mounts: []Mount{{Claim: "data", Path: "/data"}}})
	volume := ns.Volume("data")
	ns.CreateClaim(Claim{Name: "hopeless", Class: "no-such-class"})
	wanted := []string{"no-such-class", "here I am", volume.Name, "claim " + ns.Namespace + "/data: Bound", "pod " + ns.Namespace + "/talker: Running", "Scheduled"}
	WaitFor(t, podTimeout, "a dump that has it all", func(ctx context.Context) error {
		var out bytes.Buffer
		env.A.Dump(ctx, &out, ns.Namespace)
		for _, want := range wanted {
			if !strings.Contains(out.String(), want) {
				return fmt.Errorf("it lacks %q:\n%s", want, out.String())
			}
		}
		return nil
	})
}

// TestKitLeftovers makes a volume that nothing takes away, and checks that it
// is found.
func TestKitLeftovers(t *testing.T) {
	before, err := env.A.TakeInventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: env.BackingClasses[0]})
	volume, err := ns.Client.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-forgotten-"},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: Claim{}.object().Spec.Resources.Requests, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain, StorageClassName: "none",
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/nowhere"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Client.CoreV1().PersistentVolumes().Delete(context.Background(), volume.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	now, err := env.A.TakeInventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := now.since(before)
	for _, want := range []string{"persistentvolumes " + volume.Name, "namespaces " + ns.Namespace, "persistentvolumeclaims " + ns.Namespace + "/data"} {
		if found == nil || !strings.Contains(found.Error(), want) {
			t.Errorf("the leftovers lack %q: %v", want, found)
		}
	}
}

// TestKitInstall installs a workload as Lockstep is, and takes it away.
func TestKitInstall(t *testing.T) {
	before, err := env.A.TakeInventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	objects, err := ParseManifests([]byte(strings.NewReplacer("IMAGE", env.A.Images.Tools, "SCRIPT", idle).Replace(installed)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.A.Uninstall(context.Background(), objects); err != nil {
			t.Error(err)
		}
		if err := env.A.Leftovers(context.Background(), before); err != nil {
			t.Error(err)
		}
	})
	if err := env.A.Install(t.Context(), objects); err != nil {
		t.Fatal(err)
	}
	pods, err := env.A.Client.CoreV1().Pods(SystemNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=installed"})
	if err != nil {
		t.Fatal(err)
	}
	if want := 1 + len(env.A.Nodes(t, 1)); len(pods.Items) != want {
		t.Errorf("%d pods run, want %d", len(pods.Items), want)
	}
	for i := range pods.Items {
		if err := podReady(&pods.Items[i]); err != nil {
			t.Errorf("pod %s: %v", pods.Items[i].Name, err)
		}
	}
}

const installed = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: single}
spec:
  selector: {matchLabels: {app: installed, kind: single}}
  template:
    metadata: {labels: {app: installed, kind: single}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: IMAGE, imagePullPolicy: IfNotPresent, command: [sh, -c, "SCRIPT"]}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: installed, kind: everywhere}}
  template:
    metadata: {labels: {app: installed, kind: everywhere}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers: [{name: main, image: IMAGE, imagePullPolicy: IfNotPresent, command: [sh, -c, "SCRIPT"]}]
`

// TestKitChart has Helm install the chart with the kit's values as far as that
// goes without making anything: it knows the cluster's version and kinds.
func TestKitChart(t *testing.T) {
	env.A.Kit(t)
	out, err := env.A.Helm(t.Context(), t.TempDir(), "install", "lockstep", Chart, "--namespace", "default", "--values", KitValues, "--dry-run=server", "--output", "json")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{env.A.Images.Lockstep, "kind: StatefulSet", "kind: DaemonSet", "kind: CSIDriver"} {
		if !strings.Contains(out, want) {
			t.Errorf("the chart has no %q", want)
		}
	}
}
