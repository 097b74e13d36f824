package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
)

// kubelet forwards port 7 of any pod to an echo, and refuses others. It speaks
// SPDY only, as API servers before 1.30 do.
type kubelet struct {
	t       *testing.T
	serving sync.WaitGroup
}

func newKubelet(t *testing.T) *rest.Config {
	k := &kubelet{t: t}
	server := httptest.NewServer(k)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		k.serving.Wait()
	})
	return &rest.Config{Host: server.URL}
}

func (k *kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "no WebSocket here", http.StatusBadRequest)
		return
	}
	if r.URL.Path != "/api/v1/namespaces/ns/pods/pod/portforward" {
		http.Error(w, "pods is forbidden", http.StatusForbidden)
		return
	}
	if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
		k.t.Error(err)
		return
	}
	streams := make(chan httpstream.Stream, 2)
	connection := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if connection == nil {
		return
	}
	k.serving.Go(func() {
		defer connection.Close()
		var pair [2]httpstream.Stream
		for n := range pair {
			select {
			case pair[n] = <-streams:
			case <-connection.CloseChan():
				return // the client thought better of it
			}
		}
		failures, data := pair[0], pair[1]
		if port := data.Headers().Get(corev1.PortHeader); port != "7" {
			_, _ = fmt.Fprintf(failures, "connect to port %s: connection refused\n", port)
			_ = failures.Close()
			_ = data.Close()
		} else {
			_ = failures.Close()
			_, _ = io.Copy(data, data)
			_ = data.Close()
		}
		<-connection.CloseChan()
	})
}

func open(t *testing.T, config *rest.Config) *cluster.Cluster {
	t.Helper()
	c, err := cluster.New(config, "users", "ns")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDialPod(t *testing.T) {
	c := open(t, newKubelet(t))
	conn, err := c.Ports.DialPod(t.Context(), "ns", "pod", 7)
	if err != nil {
		t.Fatal(err)
	}
	// More than any buffer on the way.
	sent := strings.Repeat("0123456789abcdef", 1<<16)
	go func() { _, _ = io.WriteString(conn, sent) }()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != sent {
		t.Errorf("%v, the same came back: %v", err, string(got) == sent)
	}
	// A deadline ends a read that nothing comes for.
	if err := conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := conn.Read(got); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v, want a timeout", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if _, err := conn.Read(got); err == nil {
		t.Error("a closed connection can be read")
	}
}

func TestDialPodRefused(t *testing.T) {
	c := open(t, newKubelet(t))
	conn, err := c.Ports.DialPod(t.Context(), "ns", "pod", 8)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.ReadAll(conn); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("port 8: got %v, want what the kubelet said", err)
	}
	if _, err := c.Ports.DialPod(t.Context(), "ns", "other", 7); err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("a pod that may not be forwarded to: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Ports.DialPod(ctx, "ns", "pod", 7); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: got %v", err)
	}
}

// TestListen forwards several connections at once, and none after Close.
func TestListen(t *testing.T) {
	c := open(t, newKubelet(t))
	l, err := c.Listen("pod", 7, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			conn, err := net.Dial("tcp", l.Address())
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			want := fmt.Sprintf("hello %d", n)
			_, _ = io.WriteString(conn, want)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	all.Wait()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", l.Address()); err == nil {
		t.Error("the port is still open")
	}
}

// TestListenTells of a connection that the pod refuses.
func TestListenTells(t *testing.T) {
	c := open(t, newKubelet(t))
	told := make(chan error, 1)
	l, err := c.Listen("pod", 8, func(err error) { told <- err })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("got %v, want the connection closed", err)
	}
	if err := <-told; !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("told %v", err)
	}
}
