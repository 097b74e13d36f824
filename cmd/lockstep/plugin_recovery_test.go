package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
)

func unstructuredOf(content map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: content}
}

func recoveryPoint(checkpoint int64, before time.Duration) *v1alpha1.RecoveryPoint {
	until := metav1.NewMicroTime(epoch.Add(-before + time.Second))
	return &v1alpha1.RecoveryPoint{Checkpoint: checkpoint, Time: metav1.NewMicroTime(epoch.Add(-before)), ValidUntil: &until}
}

func metaTime(t time.Time) *metav1.Time {
	m := metav1.NewTime(t)
	return &m
}

// ended is the status of a recovery that took 6.25 s.
func ended(phase v1alpha1.RecoveryPhase) v1alpha1.RecoveryStatus {
	return v1alpha1.RecoveryStatus{Phase: phase, Point: recoveryPoint(1235, time.Minute), Before: recoveryPoint(1240, time.Second),
		StartTime: metaTime(epoch.Add(-7 * time.Second)), CompletionTime: metaTime(epoch),
		Phases: []v1alpha1.PhaseEntry{{Phase: v1alpha1.PhasePending, Time: metav1.NewMicroTime(epoch.Add(-6250 * time.Millisecond))},
			{Phase: phase, Time: metav1.NewMicroTime(epoch)}}}
}

func failedOver() v1alpha1.RecoveryStatus {
	status := ended(v1alpha1.PhaseCompleted)
	status.RPO, status.Term = "3s", 4
	size := resource.MustParse("10Gi")
	volume := strings.Repeat("0a", 16)
	status.Claims = []v1alpha1.RecoveredClaim{{Volume: volume, Claim: "pgdata", PersistentVolume: "lockstep-" + volume, Size: &size}}
	return status
}

// TestPluginRecoveries fixes what each verb makes, tells on the way, and shows.
func TestPluginRecoveries(t *testing.T) {
	quiescing := v1alpha1.RecoveryStatus{Phase: v1alpha1.PhaseQuiescing, Message: "waits for 1 pod of StatefulSet db"}
	cases := []struct {
		name, args string
		spec       v1alpha1.RecoverySpec
		states     []v1alpha1.RecoveryStatus
	}{
		{"rewind_start", "rewind start shop --at 2026-11-22T11:41:00+01:00",
			v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, Group: "shop", At: "2026-11-22T10:41:00Z", Workloads: v1alpha1.WorkloadsScale},
			[]v1alpha1.RecoveryStatus{quiescing, {Phase: v1alpha1.PhaseDetaching}, {Phase: v1alpha1.PhaseRewinding}, {Phase: v1alpha1.PhaseResuming}, ended(v1alpha1.PhaseCompleted)}},
		{"rewind_undo", "rewind undo shop --workloads keep",
			v1alpha1.RecoverySpec{Action: v1alpha1.ActionUndo, Group: "shop", Workloads: v1alpha1.WorkloadsKeep},
			[]v1alpha1.RecoveryStatus{{Phase: v1alpha1.PhasePending}, ended(v1alpha1.PhaseCompleted)}},
		{"rewind_commit", "rewind commit shop --yes",
			v1alpha1.RecoverySpec{Action: v1alpha1.ActionCommit, Group: "shop"},
			[]v1alpha1.RecoveryStatus{ended(v1alpha1.PhaseCompleted)}},
		{"failover", "failover shop --yes",
			v1alpha1.RecoverySpec{Action: v1alpha1.ActionFailover, Group: "shop", At: "latest"},
			[]v1alpha1.RecoveryStatus{{Phase: v1alpha1.PhaseFencing}, {Phase: v1alpha1.PhasePromoting}, {Phase: v1alpha1.PhasePublishing}, failedOver()}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := newPlugin(t)
			p.play(t, c.states...)
			got := p.run(t, strings.Fields(c.args)...)
			if got.exit != exitOK {
				t.Fatalf("exit %d: %s", got.exit, got.stderr)
			}
			if made := p.onlyRecovery(t); made.Spec != c.spec {
				t.Errorf("made %+v, want %+v", made.Spec, c.spec)
			}
			golden(t, "plugin_"+c.name+"_table", p.named(t, got.stdout+"--- standard error\n"+got.stderr))
		})
	}
}

func TestPluginRecoveryJSON(t *testing.T) {
	p := newPlugin(t)
	p.play(t, failedOver())
	golden(t, "plugin_failover_json", p.named(t, p.must(t, "failover", "shop", "--yes", "-o", "json")))

	p = newPlugin(t)
	p.play(t, ended(v1alpha1.PhaseCompleted))
	golden(t, "plugin_rewind_start_json", p.named(t, p.must(t, "rewind", "start", "shop", "--at", "1235", "-o", "json")))
}

func TestPluginRecoveryFails(t *testing.T) {
	p := newPlugin(t)
	failed := ended(v1alpha1.PhaseFailed)
	failed.Message = "no recovery point at 9: the nearest are\n1240 and 1231"
	p.play(t, failed)
	got := p.run(t, "rewind", "start", "shop", "--at", "9")
	want := "failed: no recovery point at 9: the nearest are 1240 and 1231\n"
	if got.exit != exitFailed || got.stdout != "" || !strings.HasSuffix(got.stderr, want) {
		t.Errorf("exit %d, stdout %q: %s", got.exit, got.stdout, got.stderr)
	}
}

// TestPluginLeavesRecoveryAtWork: whatever ends the wait, the recovery stays.
func TestPluginLeavesRecoveryAtWork(t *testing.T) {
	t.Run("timeout", func(t *testing.T) {
		p := newPlugin(t)
		got := p.run(t, "rewind", "start", "shop", "--at", "1235", "--timeout", "200ms")
		p.checkFollow(t, got, "has not ended after 200ms, last seen waiting for the controller: it goes on")
	})
	t.Run("interrupt", func(t *testing.T) {
		p := newPlugin(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p.play(t, v1alpha1.RecoveryStatus{Phase: v1alpha1.PhaseQuiescing})
		told := p.watch
		p.watch = func(text string) {
			if strings.Contains(text, "Quiescing") {
				cancel()
				return
			}
			told(text)
		}
		p.checkFollow(t, p.runContext(t, ctx, "rewind", "start", "shop", "--at", "1235"), "interrupted: recovery "+p.users)
	})
	t.Run("no wait", func(t *testing.T) {
		p := newPlugin(t)
		got := p.run(t, "failover", "shop", "--yes", "--wait=false", "-o", "json")
		var document recoveryMadeDocument
		if err := json.Unmarshal([]byte(got.stdout), &document); err != nil || got.exit != exitOK {
			t.Fatalf("exit %d, %v: %s %s", got.exit, err, got.stdout, got.stderr)
		}
		if made := p.onlyRecovery(t); document.Recovery.Name != made.Name || document.Recovery.Namespace != p.users {
			t.Errorf("got %+v, want %s", document.Recovery, made.Name)
		}
	})
}

// checkFollow wants a failure that says why, and how to follow the recovery.
func (p *plugin) checkFollow(t *testing.T, got outcome, why string) {
	t.Helper()
	follow := "follow it with `kubectl -n " + p.users + " get recovery " + p.onlyRecovery(t).Name + " --watch`\n"
	if got.exit != exitFailed || !strings.Contains(got.stderr, why) || !strings.HasSuffix(got.stderr, follow) {
		t.Errorf("exit %d: %s\nwant %q and %q", got.exit, got.stderr, why, follow)
	}
}

func TestPluginRecoveryDeleted(t *testing.T) {
	p := newPlugin(t)
	p.watch = func(text string) {
		if !strings.HasPrefix(text, "recovery ") {
			return
		}
		err := p.admin.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("recoveries")).Namespace(p.users).
			Delete(t.Context(), p.onlyRecovery(t).Name, metav1.DeleteOptions{})
		if err != nil {
			t.Error(err)
		}
	}
	got := p.run(t, "rewind", "start", "shop", "--at", "1235")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "was deleted") {
		t.Errorf("exit %d: %s", got.exit, got.stderr)
	}
}

// TestPluginDryRun: the site and the API server check, and nothing is made.
func TestPluginDryRun(t *testing.T) {
	p := newPlugin(t)
	for _, c := range []struct{ args, says string }{
		{"rewind start shop --at 1235", "group shop: would go to checkpoint 1235"},
		{"failover shop", "would become primary here"},
	} {
		if got := p.must(t, append(strings.Fields(c.args), "--dry-run")...); !strings.Contains(got, c.says) {
			t.Errorf("%s: %s", c.args, got)
		}
	}
	// The site refuses.
	got := p.run(t, "rewind", "start", "shop", "--at", "9", "--dry-run")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "the nearest are 1240 and 1231") {
		t.Errorf("exit %d: %s", got.exit, got.stderr)
	}
	// The API server refuses.
	got = p.run(t, "rewind", "start", "shop", "--at", "0", "--dry-run")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "must be an RFC 3339 time") {
		t.Errorf("exit %d: %s", got.exit, got.stderr)
	}
	if all := p.recoveries(t); len(all) != 0 || p.site.group.GetRewind() != nil || p.site.group.GetTerm() != 3 {
		t.Errorf("it did something: %v, %v", all, p.site.group)
	}
}

func TestPluginConfirms(t *testing.T) {
	p := newPlugin(t)
	if got := p.run(t, "failover", "shop"); got.exit != exitUsage || !strings.Contains(got.stderr, "pass --yes") {
		t.Errorf("without a terminal: exit %d: %s", got.exit, got.stderr)
	}
	p.terminals, p.stdin = atTerminal, strings.NewReader("n\n")
	got := p.run(t, "failover", "shop")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "at checkpoint 1240, 0s ago") || !strings.Contains(got.stderr, "term 4?") {
		t.Errorf("declined: exit %d: %s", got.exit, got.stderr)
	}
	// Without a controller nobody can say what would happen; the question remains.
	p.stopController(t)
	p.stdin = strings.NewReader("n\n")
	got = p.run(t, "failover", "shop")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "cannot be shown: the controller cannot be reached") || !strings.Contains(got.stderr, "shop at latest? [y/N]") {
		t.Errorf("no controller: exit %d: %s", got.exit, got.stderr)
	}
	if all := p.recoveries(t); len(all) != 0 {
		t.Errorf("a recovery was made: %v", all)
	}
	p.stdin = strings.NewReader("y\n")
	p.play(t, failedOver())
	if got := p.run(t, "failover", "shop"); got.exit != exitOK {
		t.Errorf("accepted: exit %d: %s", got.exit, got.stderr)
	}
}

// TestPluginFailoverIsToThePointThatWasConfirmed, as that of a site without Kubernetes.
func TestPluginFailoverIsToThePointThatWasConfirmed(t *testing.T) {
	p := newPlugin(t)
	p.terminals = atTerminal
	shown := epoch.Add(-3 * time.Second).Format(time.RFC3339Nano)
	for i, c := range []struct{ at, want string }{{"latest", "latest"}, {"1236", "1236"}, {shown, "1237"}} {
		p.stdin = strings.NewReader("y\n")
		if got := p.run(t, "failover", "shop", "--at", c.at, "--wait=false"); got.exit != exitOK {
			t.Fatalf("--at %s: exit %d: %s", c.at, got.exit, got.stderr)
		}
		var moments []string
		for _, r := range p.recoveries(t) {
			moments = append(moments, r.Spec.At)
		}
		if len(moments) != i+1 || !slices.Contains(moments, c.want) {
			t.Errorf("--at %s: recoveries at %q, want one at %q", c.at, moments, c.want)
		}
	}
}

// TestPluginRecoveryRights: who may make recoveries in a namespace needs no
// right in Lockstep's.
func TestPluginRecoveryRights(t *testing.T) {
	p := newPlugin(t)
	p.user = "app-" + p.users
	got := p.run(t, "failover", "shop", "--yes")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "recoveries.lockstep.dev is forbidden") {
		t.Fatalf("without rights: exit %d: %s", got.exit, got.stderr)
	}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "recover"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{v1alpha1.GroupName}, Resources: []string{"consistencygroups", "recoveries"}, Verbs: []string{"get", "list", "watch", "create"}}}}
	if _, err := p.admin.Kube.RbacV1().Roles(p.users).Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "recover"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "recover"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: p.user}}}
	if _, err := p.admin.Kube.RbacV1().RoleBindings(p.users).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.awaitRight(t)
	p.play(t, v1alpha1.RecoveryStatus{Phase: v1alpha1.PhaseFencing}, failedOver())
	if got := p.run(t, "failover", "shop", "--yes"); got.exit != exitOK {
		t.Errorf("exit %d: %s", got.exit, got.stderr)
	}
}
