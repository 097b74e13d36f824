package gatewaypod

import (
	"context"
	"fmt"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication/gateway"
)

// Labels of engine pods (docs/kubernetes.md, Names).
const (
	engineSelector = "app.kubernetes.io/component=engine"
	volumeLabel    = "lockstep.dev/volume"
)

// byVolume is the index of pods by volumeLabel.
const byVolume = "volume"

// podEngines finds engines among the pods of a namespace. It implements
// gateway.Engines.
type podEngines struct {
	factory informers.SharedInformerFactory
	pods    cache.SharedIndexInformer
	port    string
}

func newPodEngines(client kubernetes.Interface, namespace string, port int) (*podEngines, error) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = engineSelector }),
		informers.WithTransform(slim))
	pods := factory.Core().V1().Pods().Informer()
	err := pods.AddIndexers(cache.Indexers{byVolume: func(obj any) ([]string, error) {
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			return nil, fmt.Errorf("index a %T: not a pod", obj)
		}
		return []string{pod.Labels[volumeLabel]}, nil
	}})
	if err != nil {
		return nil, fmt.Errorf("index pods: %w", err)
	}
	return &podEngines{factory: factory, pods: pods, port: strconv.Itoa(port)}, nil
}

// slim drops what a gateway does not ask of a pod, so that a thousand of them
// take little memory.
func slim(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	m := pod.ObjectMeta
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, Labels: m.Labels,
			CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp},
		Status: corev1.PodStatus{Phase: pod.Status.Phase, PodIP: pod.Status.PodIP},
	}, nil
}

// run watches the pods until ctx ends.
func (p *podEngines) run(ctx context.Context) {
	p.factory.Start(ctx.Done())
	<-ctx.Done()
	p.factory.Shutdown()
}

// ready reports whether all engines that there were are known.
func (p *podEngines) ready() bool { return p.pods.HasSynced() }

// Resolve implements gateway.Engines.
func (p *podEngines) Resolve(_ context.Context, volume journal.VolumeID) (string, error) {
	if !p.ready() {
		return "", fmt.Errorf("engines are not known yet: %w", gateway.ErrNoEngine)
	}
	found, err := p.pods.GetIndexer().ByIndex(byVolume, volume.String())
	if err != nil {
		return "", fmt.Errorf("look for pod: %w", err)
	}
	var serving *corev1.Pod
	for _, obj := range found {
		if pod, ok := obj.(*corev1.Pod); ok && (serving == nil || servesBefore(pod, serving)) {
			serving = pod
		}
	}
	switch {
	case serving == nil:
		return "", gateway.ErrNoEngine
	case serving.DeletionTimestamp != nil:
		return "", fmt.Errorf("pod %s is being stopped: %w", serving.Name, gateway.ErrNoEngine)
	case serving.Status.Phase != corev1.PodRunning || serving.Status.PodIP == "":
		return "", fmt.Errorf("pod %s is %s: %w", serving.Name, serving.Status.Phase, gateway.ErrNoEngine)
	}
	return net.JoinHostPort(serving.Status.PodIP, p.port), nil
}

// servesBefore tells, of two pods of one volume, which one serves: in the middle
// of a handover the older one, until it is being stopped.
func servesBefore(a, b *corev1.Pod) bool {
	if leaves := a.DeletionTimestamp != nil; leaves != (b.DeletionTimestamp != nil) {
		return !leaves
	}
	return a.CreationTimestamp.Before(&b.CreationTimestamp)
}
