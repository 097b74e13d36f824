package noderole

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// topologyTimeout bounds the one question to the API server.
const topologyTimeout = 10 * time.Second

// topologyLabels are those labels of a Node by which storage classes usually
// place volumes.
var topologyLabels = []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion}

// InCluster returns a Config.Topology that reads the labels of a Node with the
// service account of this pod. It is nil, and no error, for a process that runs
// in no cluster or was given no service account: then the node's own segment is
// all there is.
func InCluster(nodeName string) (func(context.Context) (map[string]string, error), error) {
	config, err := inCluster()
	if config == nil {
		return nil, err
	}
	return NodeTopology(config, nodeName)
}

// inCluster is how to reach the API server; nil where there is none, or no service
// account.
func inCluster() (*rest.Config, error) {
	config, err := rest.InClusterConfig()
	switch {
	case errors.Is(err, rest.ErrNotInCluster), errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	return config, nil
}

// NodeTopology returns a Config.Topology that reads zone and region of a Node,
// those that it has, from an API server. It needs the right to get that Node.
func NodeTopology(config *rest.Config, nodeName string) (func(context.Context) (map[string]string, error), error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client of the API server: %w", err)
	}
	return func(ctx context.Context) (map[string]string, error) {
		ctx, cancel := context.WithTimeout(ctx, topologyTimeout)
		defer cancel()
		found, err := client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("read labels of node %s: %w", nodeName, err)
		}
		segments := make(map[string]string)
		for _, label := range topologyLabels {
			if value := found.Labels[label]; value != "" {
				segments[label] = value
			}
		}
		return segments, nil
	}, nil
}
