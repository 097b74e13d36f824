package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// installTimeout is how long each workload of an installation may take to be
// ready.
const installTimeout = 5 * time.Minute

// helmTimeout bounds a run of Helm, its compilation included.
const helmTimeout = 10 * time.Minute

// Chart and values of Lockstep, from where the tests run.
const (
	Chart     = "../../deploy/charts/lockstep"
	KitValues = "values-kit.yaml"
)

// Install applies objects, those without a namespace in SystemNamespace, which
// it makes, and waits until every Deployment, StatefulSet and DaemonSet among
// them is ready.
func (c *Cluster) Install(ctx context.Context, objects Manifests) error {
	if err := c.Apply(ctx, "", Manifests{systemNamespace()}); err != nil {
		return fmt.Errorf("install in cluster %s: %w", c.Name, err)
	}
	if err := c.Apply(ctx, SystemNamespace, objects); err != nil {
		return fmt.Errorf("install in cluster %s: %w", c.Name, err)
	}
	for _, object := range objects {
		if object.GroupVersionKind().Group != "apps" {
			continue
		}
		if err := c.awaitWorkload(ctx, object); err != nil {
			return fmt.Errorf("install in cluster %s: %w", c.Name, err)
		}
	}
	return nil
}

// Uninstall takes away what Install has made, and waits until it is gone.
func (c *Cluster) Uninstall(ctx context.Context, objects Manifests) error {
	return errors.Join(
		c.Delete(ctx, SystemNamespace, objects),
		c.Delete(ctx, "", Manifests{systemNamespace()}),
	)
}

func systemNamespace() *unstructured.Unstructured {
	n := &unstructured.Unstructured{}
	n.SetAPIVersion("v1")
	n.SetKind("Namespace")
	n.SetName(SystemNamespace)
	n.SetLabels(map[string]string{"pod-security.kubernetes.io/enforce": "privileged"})
	return n
}

func (c *Cluster) awaitWorkload(ctx context.Context, object *unstructured.Unstructured) error {
	return Await(ctx, installTimeout, describe(object)+" to be ready", func(ctx context.Context) error {
		to, err := c.resource(SystemNamespace, object)
		if err != nil {
			return err
		}
		got, err := to.Get(ctx, object.GetName(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		return workloadReady(got)
	})
}

// workloadReady returns nil when all pods of a workload run its newest
// template and are ready. A DaemonSet counts nodes, the others have replicas.
func workloadReady(object *unstructured.Unstructured) error {
	number := func(fields ...string) int64 {
		n, found, err := unstructured.NestedInt64(object.Object, fields...)
		if err != nil || !found {
			return 0
		}
		return n
	}
	wanted, ready, updated := number("spec", "replicas"), number("status", "readyReplicas"), number("status", "updatedReplicas")
	if object.GetKind() == "DaemonSet" {
		wanted, ready, updated = number("status", "desiredNumberScheduled"), number("status", "numberReady"), number("status", "updatedNumberScheduled")
	}
	if seen := number("status", "observedGeneration"); seen < object.GetGeneration() {
		return fmt.Errorf("generation %d has not been looked at", object.GetGeneration())
	}
	if ready < wanted || updated < wanted {
		return fmt.Errorf("of %d pods %d are ready and %d are of the newest template", wanted, ready, updated)
	}
	return nil
}

// Helm runs Helm, of the version in tools/versions.env, against the cluster,
// and returns what it printed. Its caches are in dir. The first use of all
// compiles it.
func (c *Cluster) Helm(ctx context.Context, dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, helmTimeout)
	defer cancel()
	helm, err := harness.Run(ctx, "../../tools/tool.sh", "helm")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, strings.TrimSpace(helm), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig, "HELM_CACHE_HOME="+dir, "HELM_CONFIG_HOME="+dir, "HELM_DATA_HOME="+dir)
	cmd.WaitDelay = 5 * time.Second
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, complaints.String())
	}
	return string(out), nil
}
