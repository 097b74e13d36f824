package cluster

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// Forwarder connects to a port inside of a pod. It is what tests replace: only
// a kubelet can serve it.
type Forwarder interface {
	// DialPod returns a connection to port of the pod's own loopback interface.
	// It needs `create` on pods/portforward.
	DialPod(ctx context.Context, namespace, pod string, port int) (net.Conn, error)
}

// apiForwarder forwards through the API server, one request for a connection.
type apiForwarder struct {
	config *rest.Config
	kube   kubernetes.Interface
}

// DialPod implements Forwarder. No port is opened on this machine: whoever else
// is on it cannot use the connection.
func (f *apiForwarder) DialPod(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
	dialer, err := f.dialer(namespace, pod)
	if err != nil {
		return nil, err
	}
	type dialed struct {
		connection httpstream.Connection
		err        error
	}
	done := make(chan dialed, 1)
	go func() {
		connection, protocol, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
		if err == nil && protocol != portforward.PortForwardProtocolV1Name {
			_ = connection.Close() // nothing was sent over it
			err = fmt.Errorf("the API server speaks %q, want %q", protocol, portforward.PortForwardProtocolV1Name)
		}
		done <- dialed{connection, err}
	}()
	select {
	case <-ctx.Done():
		// The dialer knows no context: what it still brings is closed.
		go func() {
			if late := <-done; late.err == nil {
				_ = late.connection.Close()
			}
		}()
		return nil, ctx.Err()
	case d := <-done:
		if d.err != nil {
			return nil, fmt.Errorf("forward port %d of pod %s/%s: %w", port, namespace, pod, d.err)
		}
		return newConn(d.connection, port)
	}
}

// dialer tunnels through a WebSocket, and speaks SPDY to an API server or a
// proxy that knows only that.
func (f *apiForwarder) dialer(namespace, pod string) (httpstream.Dialer, error) {
	url := f.kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	websocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(url, f.config)
	if err != nil {
		return nil, err
	}
	transport, upgrader, err := spdy.RoundTripperFor(f.config)
	if err != nil {
		return nil, err
	}
	old := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	return portforward.NewFallbackDialerForStreaming(websocket, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// portHeaders name one of the two streams of a forwarded connection.
func portHeaders(stream string, port int) http.Header {
	h := http.Header{}
	h.Set(corev1.StreamType, stream)
	h.Set(corev1.PortHeader, strconv.Itoa(port))
	h.Set(corev1.PortForwardRequestIDHeader, "0")
	return h
}
