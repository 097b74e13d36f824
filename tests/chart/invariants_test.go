package chart

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

// forEachRendering runs a check on the chart with each of the values.
func forEachRendering(t *testing.T, check func(t *testing.T, objects []*unstructured.Unstructured)) {
	for name, values := range renderings {
		t.Run(name, func(t *testing.T) { check(t, mustRender(t, values...)) })
	}
}

// clusterScoped are the kinds that have no namespace.
var clusterScoped = []string{"ClusterRole", "ClusterRoleBinding", "CSIDriver", "CustomResourceDefinition", "PriorityClass",
	"StorageClass", "VolumeAttributesClass", "VolumeSnapshotClass", "VolumeGroupSnapshotClass", "Namespace", "Site"}

func TestObjectsAreNamedOnce(t *testing.T) {
	forEachRendering(t, func(t *testing.T, objects []*unstructured.Unstructured) {
		seen := map[string]bool{}
		for _, o := range objects {
			typed(t, o)
			key := o.GetKind() + " " + o.GetName()
			if seen[key] {
				t.Errorf("%s is there twice", key)
			}
			seen[key] = true
			want := namespace
			if slices.Contains(clusterScoped, o.GetKind()) {
				want = ""
			}
			if o.GetNamespace() != want {
				t.Errorf("%s is in namespace %q, want %q", key, o.GetNamespace(), want)
			}
		}
	})
}

// Only the node plugin is privileged, and every container says what it needs.
func TestContainers(t *testing.T) {
	forEachRendering(t, func(t *testing.T, objects []*unstructured.Unstructured) {
		for _, p := range pods(t, objects) {
			if p.Spec.HostNetwork || p.Spec.HostPID || p.Spec.HostIPC {
				t.Errorf("%s shares a namespace of the host", p.role)
			}
			for _, c := range append(p.Spec.InitContainers, p.Spec.Containers...) {
				checkContainer(t, p, c)
			}
		}
	})
}

// The first process of a namespace never sees a SIGTERM that comes before it has a
// handler, also none of the default action (pid_namespaces(7)). For a Go program
// that is until its runtime has started, before any code of its own: one that is
// stopped in the moment in which it starts would stay for its grace period; of an
// engine with its volume's next engine waiting, of a node plugin with the node's.
func TestNoRoleIsTheFirstProcess(t *testing.T) {
	forEachRendering(t, func(t *testing.T, objects []*unstructured.Unstructured) {
		for _, p := range pods(t, objects) {
			if !slices.Contains([]string{"controller", "node", "engine", "gateway"}, p.role) {
				continue // not a program of ours
			}
			if share := p.Spec.ShareProcessNamespace; share == nil || !*share {
				t.Errorf("%s is the first process of its namespace", p.role)
			}
		}
	})
}

func checkContainer(t *testing.T, p pod, c corev1.Container) {
	t.Helper()
	name := p.role + "/" + c.Name
	if c.Image == "" || strings.HasSuffix(c.Image, ":") || strings.HasSuffix(c.Image, "@") {
		t.Errorf("%s has image %q", name, c.Image)
	}
	requests, limits := c.Resources.Requests, c.Resources.Limits
	if requests.Cpu().IsZero() || requests.Memory().IsZero() || limits.Memory().IsZero() {
		t.Errorf("%s has resources %+v, want requests, and a limit of memory", name, c.Resources)
	}
	if !limits.Cpu().IsZero() {
		t.Errorf("%s has a limit of CPU, which stalls it when it is needed most", name)
	}
	s := c.SecurityContext
	if s == nil {
		t.Errorf("%s has no security context", name)
		return
	}
	if s.Privileged != nil && *s.Privileged {
		if name != "node/node" {
			t.Errorf("%s is privileged", name)
		}
		return
	}
	if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
		t.Errorf("%s may become privileged", name)
	}
	if s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
		t.Errorf("%s may write to its root file system", name)
	}
	if s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("%s keeps capabilities", name)
		return
	}
	for _, capability := range s.Capabilities.Add {
		if name != "engine/engine" || capability != "IPC_LOCK" {
			t.Errorf("%s has capability %s", name, capability)
		}
	}
}

func TestHostFolders(t *testing.T) {
	forEachRendering(t, func(t *testing.T, objects []*unstructured.Unstructured) {
		socket := flags(podOf(t, objects, "node").Spec.Containers[0])["--holder-socket"]
		holder := socket[:strings.LastIndex(socket, "/")]
		for _, p := range pods(t, objects) {
			switch folders := p.folders(); p.role {
			case "node":
			case "engine":
				if !slices.Equal(folders, []string{holder}) {
					t.Errorf("an engine mounts %v of the host, want the folder of %s only", folders, socket)
				}
			default:
				if len(folders) > 0 {
					t.Errorf("%s mounts %v of the host", p.role, folders)
				}
			}
		}
	})
}

// What pods refer to exists, or is made by the controller or the user.
func TestReferences(t *testing.T) {
	made := []string{"lockstep-tls-engine", "lockstep-tls-gateway", "lockstep-peer-tls"}
	forEachRendering(t, func(t *testing.T, objects []*unstructured.Unstructured) {
		has := map[string]bool{}
		for _, o := range objects {
			has[o.GetKind()+" "+o.GetName()] = true
		}
		for _, p := range pods(t, objects) {
			if !has["ServiceAccount "+p.Spec.ServiceAccountName] {
				t.Errorf("%s has service account %q, which is not there", p.role, p.Spec.ServiceAccountName)
			}
			if name := p.Spec.PriorityClassName; !has["PriorityClass "+name] && !strings.HasPrefix(name, "system-") {
				t.Errorf("%s has priority class %q, which is not there", p.role, name)
			}
			volumes := map[string]bool{}
			for _, v := range p.Spec.Volumes {
				volumes[v.Name] = true
				if v.ConfigMap != nil && !has["ConfigMap "+v.ConfigMap.Name] {
					t.Errorf("%s mounts ConfigMap %s, which is not there", p.role, v.ConfigMap.Name)
				}
				if v.Secret != nil && !slices.Contains(made, v.Secret.SecretName) {
					t.Errorf("%s mounts Secret %s, which nobody makes", p.role, v.Secret.SecretName)
				}
			}
			for _, c := range p.Spec.Containers {
				for _, m := range c.VolumeMounts {
					if !volumes[m.Name] {
						t.Errorf("%s/%s mounts volume %s, which is not there", p.role, c.Name, m.Name)
					}
				}
			}
		}
	})
}

// Every selector finds a pod, and every named port is one of its containers'.
func TestSelectors(t *testing.T) {
	forEachRendering(t, func(t *testing.T, objects []*unstructured.Unstructured) {
		all := allPodSelectors(t, objects)
		for what, s := range all {
			if !s.optional && !s.found(pods(t, objects)) {
				t.Errorf("%s selects no pod that has the ports %v", what, s.ports)
			}
		}
		if len(all) == 0 {
			t.Error("there is no selector")
		}
	})
}

// selection is which pods an object means, and which of their ports.
type selection struct {
	selector labels.Selector
	ports    []string
	optional bool
}

func (s selection) found(pods []pod) bool {
	return slices.ContainsFunc(pods, func(p pod) bool {
		var names []string
		for _, c := range p.Spec.Containers {
			for _, port := range c.Ports {
				names = append(names, port.Name)
			}
		}
		missing := func(name string) bool { return !slices.Contains(names, name) }
		return s.selector.Matches(labels.Set(p.Labels)) && !slices.ContainsFunc(s.ports, missing)
	})
}

func allPodSelectors(t *testing.T, objects []*unstructured.Unstructured) map[string]selection {
	t.Helper()
	found := map[string]selection{}
	for _, o := range all[*corev1.Service](t, objects) {
		s := selection{selector: labels.SelectorFromSet(o.Spec.Selector)}
		for _, port := range o.Spec.Ports {
			s.ports = append(s.ports, port.TargetPort.StrVal)
		}
		found["Service "+o.Name] = s
	}
	for _, o := range all[*policyv1.PodDisruptionBudget](t, objects) {
		found["PodDisruptionBudget "+o.Name] = selection{selector: selectorOf(t, o.Spec.Selector)}
	}
	for _, o := range all[*networkingv1.NetworkPolicy](t, objects) {
		s := selection{selector: selectorOf(t, &o.Spec.PodSelector)}
		for _, rule := range o.Spec.Ingress {
			for _, port := range rule.Ports {
				if port.Port.StrVal != "" {
					s.ports = append(s.ports, port.Port.StrVal)
				}
			}
		}
		found["NetworkPolicy "+o.Name] = s
	}
	return found
}

func selectorOf(t *testing.T, s *metav1.LabelSelector) labels.Selector {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return selector
}

// With network policies every role has one.
func TestNetworkPoliciesCoverRoles(t *testing.T) {
	objects := mustRender(t, everything)
	policies := all[*networkingv1.NetworkPolicy](t, objects)
	for _, p := range pods(t, objects) {
		covered := slices.ContainsFunc(policies, func(o *networkingv1.NetworkPolicy) bool {
			return selectorOf(t, &o.Spec.PodSelector).Matches(labels.Set(p.Labels))
		})
		if !covered && p.role != "snapshot-controller" {
			t.Errorf("no policy selects %s", p.role)
		}
	}
}

// What carries I/O outlives what does not.
func TestPriorities(t *testing.T) {
	objects := mustRender(t, everything)
	value := map[string]int32{}
	for _, o := range all[*schedulingv1.PriorityClass](t, objects) {
		value[o.Name] = o.Value
	}
	of := func(role string) int32 { return value[podOf(t, objects, role).Spec.PriorityClassName] }
	if of("engine") <= of("controller") || of("node") != of("engine") || of("gateway") != of("controller") {
		t.Errorf("got priorities engine %d, node %d, controller %d, gateway %d", of("engine"), of("node"), of("controller"), of("gateway"))
	}
}
