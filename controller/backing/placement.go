package backing

import (
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
)

// maxTopologies bounds what a node affinity is multiplied out to.
const maxTopologies = 1000

// topologyOf returns the label sets that a volume's node affinity accepts; nil
// for none.
func topologyOf(pv *corev1.PersistentVolume) ([]map[string]string, error) {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return nil, nil
	}
	var sets []map[string]string
	for _, term := range pv.Spec.NodeAffinity.Required.NodeSelectorTerms {
		if len(term.MatchFields) > 0 {
			return nil, inexpressible(pv, "a field of nodes")
		}
		if len(term.MatchExpressions) == 0 {
			continue // such a term matches nothing
		}
		product := []map[string]string{{}}
		for _, e := range term.MatchExpressions {
			if e.Operator != corev1.NodeSelectorOpIn {
				return nil, inexpressible(pv, fmt.Sprintf("%s %s", e.Key, e.Operator))
			}
			product = multiply(product, e.Key, e.Values)
			if len(sets)+len(product) > maxTopologies {
				return nil, inexpressible(pv, "too many values")
			}
		}
		sets = append(sets, product...)
	}
	if len(sets) == 0 {
		return nil, inexpressible(pv, "terms that match no node")
	}
	return sets, nil
}

// multiply adds one label with each value to each set that does not contradict.
func multiply(sets []map[string]string, key string, values []string) []map[string]string {
	var product []map[string]string
	for _, set := range sets {
		for _, value := range values {
			if old, ok := set[key]; ok && old != value {
				continue
			}
			next := maps.Clone(set)
			next[key] = value
			product = append(product, next)
		}
	}
	return product
}

func inexpressible(pv *corev1.PersistentVolume, what string) error {
	return fmt.Errorf("%w: PersistentVolume %s requires %s; use a backing storage class whose volumes name labels and values", ErrTopology, pv.Name, what)
}

// bothTopologies is where two volumes can be used.
func bothTopologies(a, b []map[string]string) []map[string]string {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	both := []map[string]string{}
	for _, x := range a {
		for _, y := range b {
			if set, ok := join(x, y); ok {
				both = append(both, set)
			}
		}
	}
	return both
}

func join(a, b map[string]string) (map[string]string, bool) {
	set := maps.Clone(a)
	for key, value := range b {
		if old, ok := set[key]; ok && old != value {
			return nil, false
		}
		set[key] = value
	}
	return set, true
}

// fenceOf judges a volume. What is not known to be safe needs the lease, which
// always is.
func fenceOf(pv *corev1.PersistentVolume, attachable bool) Fence {
	switch {
	case attachable:
		return FenceAttachment
	case pv.Spec.Local != nil, oneHost(pv):
		return FenceNode
	}
	return FenceLease
}

// oneHost reports whether a volume names one node by the label that no two
// nodes share. A zone with one node today may have two tomorrow.
func oneHost(pv *corev1.PersistentVolume) bool {
	sets, err := topologyOf(pv)
	return err == nil && len(sets) == 1 && sets[0][corev1.LabelHostname] != ""
}

// weakest is the fence for an engine that needs both volumes.
func weakest(a, b Fence) Fence {
	switch {
	case a == FenceLease || b == FenceLease:
		return FenceLease
	case a == FenceAttachment || b == FenceAttachment:
		return FenceAttachment
	}
	return FenceNode
}
