package chart

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// pod is a pod of one role, as the chart would have it run.
type pod struct {
	role string
	corev1.PodTemplateSpec
}

// pods returns those of all roles, the engine's template included.
func pods(t testing.TB, objects []*unstructured.Unstructured) []pod {
	t.Helper()
	templates := []corev1.PodTemplateSpec{engineTemplate(t, objects).Template}
	for _, o := range all[*appsv1.StatefulSet](t, objects) {
		templates = append(templates, o.Spec.Template)
	}
	for _, o := range all[*appsv1.DaemonSet](t, objects) {
		templates = append(templates, o.Spec.Template)
	}
	for _, o := range all[*appsv1.Deployment](t, objects) {
		templates = append(templates, o.Spec.Template)
	}
	var found []pod
	for _, template := range templates {
		found = append(found, pod{role: template.Labels["app.kubernetes.io/component"], PodTemplateSpec: template})
	}
	return found
}

func podOf(t testing.TB, objects []*unstructured.Unstructured, role string) pod {
	t.Helper()
	for _, p := range pods(t, objects) {
		if p.role == role {
			return p
		}
	}
	t.Fatalf("there is no pod of role %s", role)
	return pod{}
}

// folders are the host's that a pod mounts.
func (p pod) folders() []string {
	var paths []string
	for _, v := range p.Spec.Volumes {
		if v.HostPath != nil {
			paths = append(paths, v.HostPath.Path)
		}
	}
	return paths
}

// flags returns the values of a container's flags.
func flags(c corev1.Container) map[string]string {
	found := map[string]string{}
	for _, arg := range c.Args {
		if name, value, ok := strings.Cut(arg, "="); ok {
			found[name] = value
		}
	}
	return found
}
