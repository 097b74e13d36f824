package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// Bounds of logs: of lines that are asked for, of bytes of one log, and of all
// together. Of what is longer the newest part is kept, and further logs are
// left out.
const (
	logLines      = 20_000
	logBytes      = 4 << 20
	totalLogBytes = 512 << 20
)

// errEnoughLogs is why a log is missing in the bundle of a large installation.
var errEnoughLogs = errors.New("left out: the bundle has 512 MiB of logs already")

// logs adds the logs of every container of Lockstep's pods, and those of the
// container's run before, where there was one.
func (b *writer) logs(ctx context.Context) error {
	pods, err := b.Cluster.Kube.CoreV1().Pods(b.Cluster.DriverNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		b.missing("logs", err)
		return nil
	}
	for n := range pods.Items {
		pod := &pods.Items[n]
		if !isOurs(pod) {
			continue
		}
		for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if err := b.log(ctx, pod.Name, status.Name, false); err != nil {
				return err
			}
			if status.RestartCount > 0 {
				if err := b.log(ctx, pod.Name, status.Name, true); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// isOurs reports a pod of a role, or an engine's.
func isOurs(pod *corev1.Pod) bool {
	return pod.Labels["app.kubernetes.io/part-of"] == "lockstep" || pod.Labels[kubenames.LabelVolume] != ""
}

func (b *writer) log(ctx context.Context, pod, container string, previous bool) error {
	name := fmt.Sprintf("logs/%s/%s.log", pod, container)
	if previous {
		name = fmt.Sprintf("logs/%s/%s.previous.log", pod, container)
	}
	if b.logBytes >= totalLogBytes {
		b.missing(name, errEnoughLogs)
		return nil
	}
	lines := int64(logLines)
	stream, err := b.Cluster.Kube.CoreV1().Pods(b.Cluster.DriverNamespace).GetLogs(pod, &corev1.PodLogOptions{
		Container: container, Previous: previous, TailLines: &lines, Timestamps: true}).Stream(ctx)
	if err != nil {
		b.missing(name, err)
		return nil
	}
	data, err := newest(stream, logBytes)
	err = errors.Join(err, stream.Close())
	if err != nil {
		b.missing(name, err)
	}
	b.logBytes += int64(len(data))
	return b.add(name, data)
}

// newest reads r to its end and returns its last bytes, keep at most.
func newest(r io.Reader, keep int) ([]byte, error) {
	var data []byte
	chunk := make([]byte, 64<<10)
	for {
		n, err := r.Read(chunk)
		data = append(data, chunk[:n]...)
		if len(data) >= 2*keep || err != nil && len(data) > keep {
			data = slices.Clone(data[len(data)-keep:])
		}
		if errors.Is(err, io.EOF) {
			return data, nil
		}
		if err != nil {
			return data, err
		}
	}
}
