package enginepod

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
)

// follow calls done with a pod as it is, nil when it is gone, and with each
// change of it, until done returns true.
func (e *Engines) follow(ctx context.Context, pod *corev1.Pod, done func(*corev1.Pod) bool) error {
	for {
		err := e.followOnce(ctx, pod, done)
		if !errors.Is(err, errWatchEnded) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (e *Engines) followOnce(ctx context.Context, pod *corev1.Pod, done func(*corev1.Pod) bool) error {
	pods := e.cfg.Client.CoreV1().Pods(e.cfg.Namespace)
	now, err := pods.Get(ctx, pod.Name, metav1.GetOptions{})
	var version string
	switch {
	case apierrors.IsNotFound(err):
		if done(nil) {
			return nil
		}
		return errWatchEnded
	case err != nil:
		return fmt.Errorf("read pod %s: %w", pod.Name, err)
	default:
		version = now.ResourceVersion
		if done(now) {
			return nil
		}
	}
	changes, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", pod.Name).String(), ResourceVersion: version})
	if err != nil {
		return fmt.Errorf("watch pod %s: %w", pod.Name, err)
	}
	defer changes.Stop()
	for {
		select {
		case change, ok := <-changes.ResultChan():
			if !ok || change.Type == watch.Error {
				return errWatchEnded
			}
			now, isPod := change.Object.(*corev1.Pod)
			switch {
			case change.Type == watch.Deleted:
				now = nil
			case !isPod:
				continue
			}
			if done(now) {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Waiting says in words what a pod that does not run is waiting for.
func Waiting(pod *corev1.Pod) string {
	var why []string
	if pod.DeletionTimestamp != nil {
		why = append(why, "it is being deleted")
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			why = append(why, fmt.Sprintf("it is not scheduled: %s: %s", c.Reason, c.Message))
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			why = append(why, strings.TrimRight(fmt.Sprintf("its container waits: %s: %s", w.Reason, w.Message), ": "))
		}
		if t := c.LastTerminationState.Terminated; t != nil {
			why = append(why, fmt.Sprintf("its container ended before with status %d: %s", t.ExitCode, strings.TrimSpace(t.Message)))
		}
	}
	if pod.Status.Message != "" {
		why = append(why, pod.Status.Message)
	}
	if len(why) == 0 {
		return "it is " + strings.ToLower(string(pod.Status.Phase))
	}
	return strings.Join(why, "; ")
}
