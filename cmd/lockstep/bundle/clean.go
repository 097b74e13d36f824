package bundle

import (
	"slices"
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

// secretWords in the name of a setting give away that it may be a credential.
var secretWords = []string{"secret", "pass", "token", "key", "credential"}

// settingsFields are where objects keep what a driver of any vendor is told, or tells
// itself: of classes, of volumes, and of attachments.
var settingsFields = []string{"parameters", "volumeAttributes", "attachmentMetadata", "options"}

// clean removes from an object what is nobody else's business. Annotations are taken from
// those in the driver's namespace, too: tools other than kubectl also keep what they have
// applied in one, under names of their own.
func clean(o *unstructured.Unstructured) {
	o.SetManagedFields(nil)
	annotations := o.GetAnnotations()
	for key := range annotations {
		if key == lastApplied || !isOwn(key) {
			delete(annotations, key)
		}
	}
	o.SetAnnotations(annotations)
	cleanEnvironment(o.Object)
	cleanSettings(o.Object)
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

// cleanSettings removes settings that may be credentials, wherever they are. The
// standard ones of classes name Secrets and are kept.
func cleanSettings(value any) {
	switch v := value.(type) {
	case map[string]any:
		for field, child := range v {
			settings, isMap := child.(map[string]any)
			options, isList := child.([]any)
			switch {
			case isMap && slices.Contains(settingsFields, field):
				removeSecrets(settings)
			case isList && field == "mountOptions":
				removeOptions(options)
			default:
				cleanSettings(child)
			}
		}
	case []any:
		for _, child := range v {
			cleanSettings(child)
		}
	}
}

func removeSecrets(settings map[string]any) {
	for key := range settings {
		if !strings.HasPrefix(key, "csi.storage.k8s.io/") && mayBeSecret(key) {
			settings[key] = removed
		}
	}
}

func removeOptions(options []any) {
	for i, option := range options {
		text, _ := option.(string)
		if key, _, hasValue := strings.Cut(text, "="); hasValue && mayBeSecret(key) {
			options[i] = key + "=" + removed
		}
	}
}

func mayBeSecret(key string) bool {
	return slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(strings.ToLower(key), word) })
}
