package operator

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kevents "k8s.io/client-go/tools/events"
)

// events tells users, at an object of theirs, what happened. action is a word for
// what was being done. Kubernetes counts what is told again.
type events struct {
	recorder kevents.EventRecorder
}

// What the API server takes of an event's text, and of a condition's, in bytes. With more
// it refuses the event, or the whole status.
const (
	maxNote    = 1024
	maxMessage = 32768
)

// clip takes from the end of a text what there is no room for.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "")
}

// setCondition is meta.SetStatusCondition with a message that the API server takes: it may
// name what is wrong with each of many members.
func setCondition(conditions *[]metav1.Condition, c metav1.Condition) {
	c.Message = clip(c.Message, maxMessage)
	meta.SetStatusCondition(conditions, c)
}

func (e events) note(about runtime.Object, reason, action, format string, args ...any) {
	e.tell(about, corev1.EventTypeNormal, reason, action, format, args...)
}

func (e events) warn(about runtime.Object, reason, action, format string, args ...any) {
	e.tell(about, corev1.EventTypeWarning, reason, action, format, args...)
}

func (e events) tell(about runtime.Object, kind, reason, action, format string, args ...any) {
	e.recorder.Eventf(about, nil, kind, reason, action, "%s", clip(fmt.Sprintf(format, args...), maxNote))
}
