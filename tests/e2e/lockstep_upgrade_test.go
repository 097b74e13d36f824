//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// upgradeTimeout covers the minute or two that a kubelet takes to show the
// controller a changed ConfigMap.
const upgradeTimeout = 5 * time.Minute

// TestLockstepUpgrade upgrades the release under I/O: engines that run are
// handed over to pods of the new template, without an error, and their claims
// tell. One whose pod says so is left alone.
func TestLockstepUpgrade(t *testing.T) {
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	class := ns.Class(Class{Over: env.BackingClasses[0]})
	claims := []string{"one", "two", "held"}
	runs, before := map[string]*FioRun{}, map[string]*corev1.Pod{}
	for _, claim := range claims {
		ns.CreateClaim(Claim{Name: claim, Class: class, Block: true})
		runs[claim] = ns.StartFio(Fio{Name: "fio-" + claim, Claim: claim, Block: true, RateIOPS: 200})
		pod, err := ns.EnginePod(t.Context(), ns.VolumeID(claim))
		if err != nil || pod == nil {
			t.Fatalf("engine of claim %s: %v", claim, err)
		}
		before[claim] = pod
	}
	ns.annotateEngine(t, before["held"].Name, "lockstep.dev/upgrade", "Manual")
	revision := ns.Namespace
	upgrade := func(ctx context.Context, value string) error {
		_, err := env.A.Helm(ctx, t.TempDir(), "upgrade", release, Chart, "--namespace", SystemNamespace, "--reuse-values",
			"--set", "engine.podAnnotations.e2e="+value, "--wait", "--timeout", installTimeout.String())
		return err
	}
	if err := upgrade(t.Context(), revision); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := upgrade(context.Background(), "null"); err != nil {
			t.Error(err)
		}
	})
	for _, claim := range claims[:2] {
		volume := ns.VolumeID(claim)
		WaitFor(t, upgradeTimeout, "the engine of claim "+claim+" to be of the new template", func(ctx context.Context) error {
			pod, err := ns.EnginePod(ctx, volume)
			if err == nil && (pod == nil || pod.Annotations["e2e"] != revision) {
				err = errors.New("it is not")
			}
			if err != nil {
				return err
			}
			return errors.Join(podReady(pod), ns.onlyEngine(ctx, volume))
		})
		ns.AwaitEvent(claim, "EngineUpgraded")
	}
	for _, claim := range claims {
		runs[claim].AwaitMore(200)
		result := runs[claim].Stop()
		Report(t, Figure{Name: "longest write, upgrade, " + claim, Got: result.LongestWrite.Seconds(), Target: handoverPause.Seconds(), Unit: "s"})
		if result.LongestWrite > killPause {
			t.Errorf("a write to claim %s took %s, and must not take more than %s", claim, result.LongestWrite, killPause)
		}
	}
	held, err := ns.EnginePod(t.Context(), ns.VolumeID("held"))
	if err != nil || held == nil || held.UID != before["held"].UID {
		t.Errorf("the engine that was held back is %v, %v", held, err)
	}
}

// onlyEngine returns an error unless a volume has one engine's pod.
func (n *Namespace) onlyEngine(ctx context.Context, volume string) error {
	list, err := n.Client.CoreV1().Pods(SystemNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=engine," + volumeLabel + "=" + volume})
	if err == nil && len(list.Items) != 1 {
		err = fmt.Errorf("there are %d", len(list.Items))
	}
	return err
}

func (n *Namespace) annotateEngine(t *testing.T, pod, key, value string) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"metadata": {"annotations": {%q: %q}}}`, key, value)
	if _, err := n.Client.CoreV1().Pods(SystemNamespace).Patch(t.Context(), pod, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}
