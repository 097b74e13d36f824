// Package enginepod has engines run as pods in the driver's namespace
// (docs/kubernetes.md, "What runs", "Attaching", "The fence").
//
// A volume has at most one engine pod, because it has one name; the API server
// sees to it that a second one cannot be made before the first is gone. The
// pod's object goes when its kubelet has confirmed that its processes have
// ended, or when a person or Kubernetes force-deletes it on a node that is lost.
// What keeps the processes of such a node from writing is the storage's own
// attachment, which Kubernetes waits for before it attaches the volume to
// another node, or the engine's lease, which the next engine waits for. This
// package never force-deletes.
//
// The pod is bound to a node by affinity and not by spec.nodeName: a claim that
// binds at first consumer would never be bound.
//
// The package starts no goroutines that outlive a call.
package enginepod
