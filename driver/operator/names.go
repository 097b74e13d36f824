package operator

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/driver/fleet"
)

// Annotations that users set.
const (
	// AnnotationGroup names a claim's group within its namespace: on the claim,
	// on what uses it, or on the namespace.
	AnnotationGroup = "lockstep.dev/group"
	// AnnotationAsOf is the moment of a claim's data source that it is to have.
	AnnotationAsOf = "lockstep.dev/as-of"
	// AnnotationMember is the claim, in the same namespace, whose image of a
	// snapshot a claim is to have.
	AnnotationMember = "lockstep.dev/member"
)

// annotationSelectedNode is the scheduler's: where the pod is going to be that waits
// for a claim whose class binds at its first consumer.
const annotationSelectedNode = "volume.kubernetes.io/selected-node"

// managedBy is the label, and its value, of groups that appeared by themselves.
const (
	managedBy  = "app.kubernetes.io/managed-by"
	managedVal = "lockstep"
)

// groupName is a group's name on every site.
func groupName(namespace, name string) string { return namespace + "/" + name }

// groupKey is the ConsistencyGroup of a group; ok is false for a group that was
// named by a storage class and has none.
func groupKey(name string) (key types.NamespacedName, ok bool) {
	namespace, rest, ok := strings.Cut(name, "/")
	key = types.NamespacedName{Namespace: namespace, Name: rest}
	return key, ok && len(validation.IsDNS1123Label(namespace)) == 0 && len(validation.IsDNS1123Subdomain(rest)) == 0
}

// checkGroup checks an annotation's value; where says what it is on.
func checkGroup(where, value string) error {
	if problems := validation.IsDNS1123Label(value); len(problems) > 0 {
		return fmt.Errorf("annotation %s of %s is %q: %s: %w", AnnotationGroup, where, value, strings.Join(problems, "; "), controller.ErrInvalid)
	}
	return nil
}

// claimOf is the claim of a volume: the one that it was made for, or, where it
// came from another site, the one that it is to have here.
func claimOf(v *fleet.Volume) (key types.NamespacedName, ok bool) {
	key.Namespace, key.Name, ok = v.ClaimOf()
	return key, ok
}
