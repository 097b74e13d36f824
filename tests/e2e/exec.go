package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
)

// Streams are what a command in a pod reads and writes; each may be nil.
type Streams struct {
	In        io.Reader
	Out, Err  io.Writer
	Container string // empty: the pod's only one
}

// ExitError says that a command in a pod ended with another status than 0.
type ExitError struct {
	Status int
}

func (e ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Status) }

// Stream runs a command in a container of a pod until it ends or ctx
// does. The error is an ExitError when the command itself failed. A command
// whose stream was cut off by ctx may go on in the pod.
func (c *Cluster) Stream(ctx context.Context, namespace, pod string, streams Streams, command ...string) error {
	// A nil io.Reader in an io.Reader would count as one.
	options := &corev1.PodExecOptions{Container: streams.Container, Command: command, Stdin: streams.In != nil, Stdout: streams.Out != nil, Stderr: streams.Err != nil}
	url := c.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(options, scheme.ParameterCodec).URL()
	spdy, err := remotecommand.NewSPDYExecutor(c.Config, "POST", url)
	if err != nil {
		return fmt.Errorf("exec in pod %s: %w", pod, err)
	}
	socket, err := remotecommand.NewWebSocketExecutor(c.Config, "GET", url.String())
	if err != nil {
		return fmt.Errorf("exec in pod %s: %w", pod, err)
	}
	executor, err := remotecommand.NewFallbackExecutor(socket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return fmt.Errorf("exec in pod %s: %w", pod, err)
	}
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: streams.In, Stdout: streams.Out, Stderr: streams.Err})
	var exit exec.CodeExitError
	if errors.As(err, &exit) {
		return ExitError{Status: exit.Code}
	}
	if err != nil {
		return fmt.Errorf("exec in pod %s: %w", pod, err)
	}
	return nil
}

// Exec runs a command in the only container of a pod and returns what it
// printed; an error has what it complained of.
func (c *Cluster) Exec(ctx context.Context, namespace, pod string, command ...string) (string, error) {
	return c.ExecIn(ctx, namespace, pod, "", command...)
}

// ExecIn is Exec in a pod of several containers.
func (c *Cluster) ExecIn(ctx context.Context, namespace, pod, container string, command ...string) (string, error) {
	var out, complaints bytes.Buffer
	err := c.Stream(ctx, namespace, pod, Streams{Out: &out, Err: &complaints, Container: container}, command...)
	if err != nil {
		err = fmt.Errorf("%s in pod %s: %w: %s", strings.Join(command, " "), pod, err, strings.TrimSpace(complaints.String()))
	}
	return out.String(), err
}
