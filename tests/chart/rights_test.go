package chart

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// rightsOf returns what a role's account may do in the whole cluster and in
// the release's namespace.
func rightsOf(t *testing.T, objects []*unstructured.Unstructured, role string) (cluster, own []rbacv1.PolicyRule) {
	t.Helper()
	account := podOf(t, objects, role).Spec.ServiceAccountName
	bound := func(subjects []rbacv1.Subject) bool {
		return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
			return s.Kind == "ServiceAccount" && s.Name == account && s.Namespace == namespace
		})
	}
	for _, b := range all[*rbacv1.ClusterRoleBinding](t, objects) {
		for _, r := range all[*rbacv1.ClusterRole](t, objects) {
			if r.Name == b.RoleRef.Name && bound(b.Subjects) {
				cluster = append(cluster, r.Rules...)
			}
		}
	}
	for _, b := range all[*rbacv1.RoleBinding](t, objects) {
		for _, r := range all[*rbacv1.Role](t, objects) {
			if r.Name == b.RoleRef.Name && bound(b.Subjects) {
				own = append(own, r.Rules...)
			}
		}
	}
	return cluster, own
}

// changes are the verbs that change something.
var changes = []string{"create", "update", "patch", "delete", "deletecollection"}

// mayChange is everything that any role may change in all namespaces. Whatever
// else a change of the chart would let them do has to be added here first.
var mayChange = map[string]map[string][]string{
	"controller": {
		// Failover makes both. The provisioner makes volumes as well, and updates claims that are cloned;
		// attacher and resizer patch volumes.
		"persistentvolumes":      {"create", "patch", "delete"},
		"persistentvolumeclaims": {"create", "update"},
		// Resizer, attacher.
		"persistentvolumeclaims/status": {"patch"},
		"volumeattachments":             {"patch"},
		"volumeattachments/status":      {"patch"},
		// Snapshotter.
		"volumesnapshots":                    {"update"},
		"volumesnapshotcontents":             {"update", "patch"},
		"volumesnapshotcontents/status":      {"update", "patch"},
		"volumegroupsnapshotcontents":        {"update", "patch"},
		"volumegroupsnapshotcontents/status": {"update", "patch"},
		// Rewind.
		"deployments/scale":  {"update"},
		"replicasets/scale":  {"update"},
		"statefulsets/scale": {"update"},
		"jobs":               {"patch"},
		"cronjobs":           {"patch"},
		// Our own.
		"consistencygroups":        {"create", "update", "patch", "delete"},
		"consistencygroups/status": {"update", "patch"},
		"sites/status":             {"update", "patch"},
		"recoveries":               {"update"},
		"recoveries/finalizers":    {"update"},
		"recoveries/status":        {"update", "patch"},
		"events":                   {"create", "update", "patch"},
	},
	"snapshot-controller": {
		"persistentvolumeclaims":             {"update"},
		"volumesnapshots":                    changes,
		"volumesnapshots/status":             {"update", "patch"},
		"volumesnapshotcontents":             changes,
		"volumesnapshotcontents/status":      {"update", "patch"},
		"volumegroupsnapshots":               {"update", "patch"},
		"volumegroupsnapshots/status":        {"update", "patch"},
		"volumegroupsnapshotcontents":        changes,
		"volumegroupsnapshotcontents/status": {"update", "patch"},
		"events":                             {"create", "update", "patch"},
	},
}

func TestClusterWideChanges(t *testing.T) {
	forEachRendering(t, func(t *testing.T, objects []*unstructured.Unstructured) {
		for _, p := range pods(t, objects) {
			cluster, _ := rightsOf(t, objects, p.role)
			for _, rule := range cluster {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						if slices.Contains(changes, verb) && !slices.Contains(mayChange[p.role][resource], verb) {
							t.Errorf("%s may %s %s in all namespaces", p.role, verb, resource)
						}
					}
				}
			}
		}
	})
}

// No rule is a wildcard, none is about Secrets of others, none lets a role
// raise its rights or run something in another's pod.
func TestRules(t *testing.T) {
	forEachRendering(t, func(t *testing.T, objects []*unstructured.Unstructured) {
		for _, p := range pods(t, objects) {
			cluster, own := rightsOf(t, objects, p.role)
			for _, rule := range append(cluster, own...) {
				words := slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs)
				for _, word := range words {
					if slices.Contains([]string{"*", "escalate", "bind", "impersonate", "pods/exec", "pods/portforward", "nodes/proxy"}, word) {
						t.Errorf("%s has the rule %v", p.role, rule)
					}
				}
			}
			for _, rule := range cluster {
				if slices.Contains(rule.Resources, "secrets") || slices.Contains(rule.Resources, "configmaps") {
					t.Errorf("%s reaches %v of all namespaces", p.role, rule.Resources)
				}
			}
		}
	})
}

func TestSecrets(t *testing.T) {
	objects := mustRender(t, everything)
	for _, p := range pods(t, objects) {
		_, own := rightsOf(t, objects, p.role)
		for _, rule := range own {
			if !slices.Contains(rule.Resources, "secrets") {
				continue
			}
			if p.role != "controller" {
				t.Errorf("%s has the rule %v", p.role, rule)
			}
			if !slices.Equal(rule.Verbs, []string{"create"}) && !slices.Contains(rule.ResourceNames, "lockstep-ca") {
				t.Errorf("the controller may %v Secrets of any name", rule.Verbs)
			}
		}
	}
}

// The roles that touch data can do least.
func TestSmallRoles(t *testing.T) {
	objects := mustRender(t, everything)
	cluster, own := rightsOf(t, objects, "node")
	if len(own) > 0 || len(cluster) != 2 || !slices.Equal(cluster[0].Resources, []string{"nodes"}) || !slices.Equal(cluster[0].Verbs, []string{"get"}) ||
		!slices.Equal(cluster[1].Resources, []string{"volumeattachments"}) || !slices.Equal(cluster[1].Verbs, []string{"get"}) {
		t.Errorf("the node plugin has the rules %v %v, want to get a Node and a VolumeAttachment only", cluster, own)
	}
	cluster, own = rightsOf(t, objects, "engine")
	if len(cluster) > 0 || len(own) != 1 || !slices.Equal(own[0].Resources, []string{"leases"}) || slices.Contains(own[0].Verbs, "delete") {
		t.Errorf("an engine has the rules %v %v, want its lease only", cluster, own)
	}
	cluster, own = rightsOf(t, objects, "gateway")
	if len(cluster) > 0 || len(own) != 1 || !slices.Equal(own[0].Resources, []string{"pods"}) ||
		slices.ContainsFunc(own[0].Verbs, func(verb string) bool { return slices.Contains(changes, verb) }) {
		t.Errorf("a gateway has the rules %v %v, want to read pods only", cluster, own)
	}
}

// Each rule says what it is for, in the line above it.
func TestRulesHaveReasons(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(chartDir, "templates", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	rules := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		above := ""
		for i, line := range strings.Split(string(text), "\n") {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "- apiGroups:") {
				rules++
				if !strings.HasPrefix(above, "#") {
					t.Errorf("%s:%d: the rule has no reason above it", filepath.Base(file), i+1)
				}
			}
			above = line
		}
	}
	if rules == 0 {
		t.Error("there are no rules")
	}
}
