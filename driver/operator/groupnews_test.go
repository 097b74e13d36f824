package operator

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/fleet"
)

// Whoever asked for io_uring and does not get it reads why at the claim, once for
// each time that the device comes.
func TestAFallbackFromIOUringIsTold(t *testing.T) {
	v := sound()
	var status v1alpha1.ConsistencyGroupStatus
	look := func() []string {
		old := status
		status = statusOf(v, &old)
		var told []string
		for _, n := range memberNews(old.Members, status.Members) {
			if n.reason == "TransportFallback" {
				if n.kind != corev1.EventTypeWarning || n.volume != v.volumes[0].ID.String() {
					t.Errorf("told as %+v", n)
				}
				told = append(told, n.text)
			}
		}
		return told
	}
	attach := func(why string) {
		v.volumes[0].Node, v.volumes[0].Attach = "node1", &fleet.Attachment{Node: "node1"}
		v.volumes[0].State.Device, v.volumes[0].State.Transport, v.volumes[0].State.TransportFallback = "/dev/loop0", "dev-fuse", why
	}
	expect := func(when string, told []string, words ...string) {
		t.Helper()
		if len(words) == 0 && len(told) != 0 || len(words) != 0 && len(told) != 1 {
			t.Fatalf("%s: told %q", when, told)
		}
		for _, word := range words {
			if !strings.Contains(told[0], word) {
				t.Errorf("%s: no %q in %q", when, word, told[0])
			}
		}
	}
	attach("no seccomp profile")
	expect("new and attached", look(), "node1", "dev-fuse", "no seccomp profile")
	if m := status.Members[0]; m.Transport != "dev-fuse" || m.TransportFallback != "no seccomp profile" {
		t.Errorf("the status says %+v", m)
	}
	expect("again", look())
	v.volumes[0].Attach, v.volumes[0].State.Device = nil, ""
	expect("detached", look())
	if m := status.Members[0]; m.Transport != "" || m.TransportFallback != "" {
		t.Errorf("the status of a detached volume says %+v", m)
	}
	before := status
	attach("no seccomp profile")
	expect("attached again", look(), "no seccomp profile")
	if !isUrgent(&before, &status) {
		t.Error("it waits for the next regular status")
	}
	attach("")
	expect("as asked for", look())
}
