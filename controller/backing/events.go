package backing

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// reasonProvisioningFailed is what provisioners, in and out of tree, call it.
const reasonProvisioningFailed = "ProvisioningFailed"

// stillTrying are gRPC codes in the words of a provisioner that has not been
// refused: the storage is slow, or its driver starts. To delete the claim then
// would begin the same wait again.
var stillTrying = []string{"code = DeadlineExceeded", "code = Aborted", "code = Unavailable", "code = Canceled"}

// eventsOf selects the events of a claim, not of an earlier one of its name.
func eventsOf(claim *corev1.PersistentVolumeClaim) string {
	return fields.Set{"involvedObject.kind": "PersistentVolumeClaim", "involvedObject.uid": string(claim.UID)}.String()
}

func (c *Claims) events(ctx context.Context, claim *corev1.PersistentVolumeClaim) ([]corev1.Event, error) {
	list, err := c.config.Client.CoreV1().Events(c.config.Namespace).List(ctx, metav1.ListOptions{FieldSelector: eventsOf(claim)})
	if err != nil {
		return nil, fmt.Errorf("list events of claim: %w", err)
	}
	return list.Items, nil
}

// refusal returns ErrExhausted if the provisioner has said that it will not
// serve a claim.
func (c *Claims) refusal(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	events, err := c.events(ctx, claim)
	if err != nil {
		return err
	}
	for _, e := range events {
		if e.Type == corev1.EventTypeWarning && e.Reason == reasonProvisioningFailed && !isStillTrying(e.Message) {
			return fmt.Errorf("%w: %s", ErrExhausted, strings.TrimSpace(e.Message))
		}
	}
	return nil
}

func isStillTrying(message string) bool {
	for _, code := range stillTrying {
		if strings.Contains(message, code) {
			return true
		}
	}
	return false
}

// newestEvent is what people should know when a wait ends: ": MESSAGE" or
// nothing. It asks with a time of its own, for the caller's has run out.
func (c *Claims) newestEvent(claim *corev1.PersistentVolumeClaim) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	events, err := c.events(ctx, claim)
	if err != nil || len(events) == 0 {
		return ""
	}
	newest := events[0]
	for _, e := range events[1:] {
		if newest.LastTimestamp.Before(&e.LastTimestamp) {
			newest = e
		}
	}
	return ": " + strings.TrimSpace(newest.Message)
}
