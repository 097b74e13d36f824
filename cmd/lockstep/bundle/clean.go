package bundle

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// removed stands in a bundle for a value that it must not have.
const removed = "(removed)"

// lastApplied is what `kubectl apply` keeps of an object: all of it, a Secret's
// data included.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// ownAnnotations are the domains of annotations that a bundle shows.
var ownAnnotations = []string{"kubernetes.io", "k8s.io", "lockstep.dev"}

// secretWords in a class's parameter give away that it may be a credential.
var secretWords = []string{"secret", "password", "token", "key", "credential"}

// clean removes from an object what is nobody else's business.
func clean(o *unstructured.Unstructured, driverNamespace string) {
	o.SetManagedFields(nil)
	annotations := o.GetAnnotations()
	for key := range annotations {
		if key == lastApplied || o.GetNamespace() != driverNamespace && !isOwn(key) {
			delete(annotations, key)
		}
	}
	o.SetAnnotations(annotations)
	cleanEnvironment(o.Object)
	cleanParameters(o.Object)
}

// isOwn reports an annotation of Kubernetes or of Lockstep.
func isOwn(key string) bool {
	domain, _, found := strings.Cut(key, "/")
	for _, own := range ownAnnotations {
		if found && (domain == own || strings.HasSuffix(domain, "."+own)) {
			return true
		}
	}
	return false
}

// cleanEnvironment removes the values of environment variables, wherever a pod
// is described: people put passwords and proxies with passwords there.
func cleanEnvironment(value any) {
	switch v := value.(type) {
	case map[string]any:
		for key, child := range v {
			if variables, isList := child.([]any); isList && key == "env" {
				removeValues(variables)
				continue
			}
			cleanEnvironment(child)
		}
	case []any:
		for _, child := range v {
			cleanEnvironment(child)
		}
	}
}

func removeValues(variables []any) {
	for _, variable := range variables {
		if fields, isMap := variable.(map[string]any); isMap && fields["value"] != nil {
			fields["value"] = removed
		}
	}
}

// cleanParameters removes those of a class that may be credentials. The
// standard ones name Secrets and are kept.
func cleanParameters(object map[string]any) {
	parameters, isMap := object["parameters"].(map[string]any)
	if !isMap {
		return
	}
	for key := range parameters {
		if strings.HasPrefix(key, "csi.storage.k8s.io/") {
			continue
		}
		for _, word := range secretWords {
			if strings.Contains(strings.ToLower(key), word) {
				parameters[key] = removed
			}
		}
	}
}
