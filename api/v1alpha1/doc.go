// Package v1alpha1 holds the custom resources that a cluster's Lockstep reads
// and writes: [ConsistencyGroup], [Site] and [Recovery], of API group
// lockstep.dev. docs/kubernetes.md says who makes each and what happens then.
//
// The comments of the types are what `kubectl explain` prints, and the markers
// are the validation that the API server does, so that a mistake is refused
// when it is applied and not when the controller meets it. `make generate`
// makes zz_generated.deepcopy.go and the CustomResourceDefinitions in
// deploy/charts/lockstep/files/crds from them.
//
// Values are plain data: nothing here starts a goroutine or does I/O, and a
// value may be read concurrently.
//
// +kubebuilder:object:generate=true
// +groupName=lockstep.dev
package v1alpha1
