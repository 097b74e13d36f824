package cluster

import (
	"errors"
	"fmt"
	"io"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Requests to the API server a second, and in one burst: as many as kubectl
// allows itself.
const (
	requestsPerSecond = 50
	requestsInBurst   = 300
)

// Options say which cluster is meant, as kubectl's flags do.
type Options struct {
	// Kubeconfig is a path; empty: as kubectl finds it.
	Kubeconfig string
	// Overrides replace what the kubeconfig says.
	Overrides clientcmd.ConfigOverrides
	// DriverNamespace is where Lockstep runs.
	DriverNamespace string
	// UserAgent is what the API server's audit log shows.
	UserAgent string
	// Warnings is where the API server's warnings go.
	Warnings io.Writer
}

// Cluster is a cluster and what of it a command works with. Its fields do not
// change; it may be used concurrently.
type Cluster struct {
	// Namespace is kubectl's current one, or that of -n.
	Namespace string
	// DriverNamespace is where Lockstep runs.
	DriverNamespace string
	Kube            kubernetes.Interface
	Dynamic         dynamic.Interface
	// Metadata fetches no more of objects than that.
	Metadata metadata.Interface
	// Ports forwards ports of pods.
	Ports Forwarder
}

// ErrNoConfig is returned by Open when nothing says which cluster is meant.
var ErrNoConfig = errors.New("no cluster is configured for this context: set KUBECONFIG, or pass --kubeconfig or --context, see `kubectl config get-contexts`")

// Open reads the configuration. It sends nothing.
func Open(o Options) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &o.Overrides)
	config, err := loader.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, ErrNoConfig
	}
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.QPS, config.Burst = requestsPerSecond, requestsInBurst
	config.UserAgent = o.UserAgent
	config.WarningHandler = rest.NewWarningWriter(o.Warnings, rest.WarningWriterOptions{Deduplicate: true})
	return New(config, namespace, o.DriverNamespace)
}

// New makes a Cluster from a client configuration.
func New(config *rest.Config, namespace, driverNamespace string) (*Cluster, error) {
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	resources, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	metadatas, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &Cluster{Namespace: namespace, DriverNamespace: driverNamespace, Kube: kube, Dynamic: resources, Metadata: metadatas,
		Ports: &apiForwarder{config: config, kube: kube}}, nil
}
