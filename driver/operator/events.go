package operator

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kevents "k8s.io/client-go/tools/events"
)

// events tells users, at an object of theirs, what happened. action is a word for
// what was being done. Kubernetes counts what is told again.
type events struct {
	recorder kevents.EventRecorder
}

// maxNote is what the API server takes.
const maxNote = 1024

func (e events) note(about runtime.Object, reason, action, format string, args ...any) {
	e.tell(about, corev1.EventTypeNormal, reason, action, format, args...)
}

func (e events) warn(about runtime.Object, reason, action, format string, args ...any) {
	e.tell(about, corev1.EventTypeWarning, reason, action, format, args...)
}

func (e events) tell(about runtime.Object, kind, reason, action, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if len(text) > maxNote {
		text = strings.ToValidUTF8(text[:maxNote], "")
	}
	e.recorder.Eventf(about, nil, kind, reason, action, "%s", text)
}
