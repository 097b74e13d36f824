package enginepod

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestPodsAreToldApart(t *testing.T) {
	for _, tt := range []struct {
		name                      string
		found                     [][2]string // uid, uid that it succeeds; oldest first
		engine, successor, strays string
	}{
		{"none", nil, "", "", ""},
		{"an engine", [][2]string{{"1", ""}}, "1", "", ""},
		{"an engine and its successor", [][2]string{{"1", ""}, {"2", "1"}}, "1", "2", ""},
		{"the successor of one that is gone", [][2]string{{"2", "1"}}, "2", "", ""},
		{"and the successor's own", [][2]string{{"2", "1"}, {"3", "2"}}, "2", "3", ""},
		{"the late successor of one that is gone", [][2]string{{"3", ""}, {"2", "1"}}, "3", "", "2"},
		{"the successor of one that is gone, and a late pod", [][2]string{{"2", "1"}, {"3", ""}}, "2", "", "3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var all []corev1.Pod
			for i, p := range tt.found {
				all = append(all, corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(p[0]), Annotations: map[string]string{annotationSucceeds: p[1]},
					CreationTimestamp: metav1.NewTime(time.Unix(int64(i), 0))}})
			}
			got := arrange(all)
			strays := ""
			for _, p := range got.strays {
				strays += string(p.UID)
			}
			if uid(got.engine) != tt.engine || uid(got.successor) != tt.successor || strays != tt.strays {
				t.Errorf("engine %q, successor %q, strays %q", uid(got.engine), uid(got.successor), strays)
			}
		})
	}
}

func uid(pod *corev1.Pod) string {
	if pod == nil {
		return ""
	}
	return string(pod.UID)
}
