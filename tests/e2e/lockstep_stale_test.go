//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// staleTimeout is how long a node that is back may keep the device of a volume that
// has moved: 60 s that the kubelet gives its engine to end, 2 min that the node plugin
// waits then, and some more on a busy machine.
const staleTimeout = 4 * time.Minute

// devicesDir is where the node plugin keeps its devices, on a node of the kit.
const devicesDir = "/var/lib/kubelet/plugins/csi.lockstep.dev/devices"

// onNode runs a shell's command in the namespaces of a node, which may be cut off. It may
// take as long as the node needs to be back, its volumes to move, and all that is left to go.
func (k *Kit) onNode(ctx context.Context, node, command string) (string, error) {
	number, _ := strings.CutPrefix(node, fmt.Sprintf("site%d-node", k.Site))
	return k.runWithin(ctx, nodeTimeout+fenceTimeout+staleTimeout, "node", "exec", "--site", strconv.Itoa(k.Site), "--node", number, "--", "sh", "-c", command)
}

// awaitAttested waits until the node plugin has been told what attaches a volume to its
// node, and has noted it: only then does it take the device away when that is gone.
func (k *Kit) awaitAttested(t *testing.T, node, volume string) {
	t.Helper()
	WaitFor(t, podTimeout, "the attachment of volume "+volume+" to be known on node "+node, func(ctx context.Context) error {
		record, err := k.onNode(ctx, node, "cat "+devicesDir+"/.volumes/"+volume+".json")
		if err == nil && !strings.Contains(record, `"attachment":"`) {
			err = fmt.Errorf("its record is %s", record)
		}
		return err
	})
}

// leftDevice is the device that a node has of a volume which is about to move.
type leftDevice struct {
	kit     *Kit
	node    string
	volume  string
	device  string        // /dev/loopN
	file    string        // its name, of this node and this attachment alone
	since   time.Time     // when it was found
	reading <-chan string // what ended reading it
}

// leaveDevice finds the device of a volume on a node, and has a process there that is
// none of a pod's read it until it gets an error.
func (k *Kit) leaveDevice(t *testing.T, node, volume string) *leftDevice {
	t.Helper()
	// Nodes of the kit have one kernel: a device is a node's by the directory of its plugin.
	find := `id=$(cat ` + devicesDir + `/.id); cd /sys/block; for b in loop*; do f=$(cat $b/loop/backing_file 2>/dev/null); case $f in *device-$id-*-` + volume + `*) echo $b $f;; esac; done`
	out, err := k.onNode(t.Context(), node, find)
	words := strings.Fields(out)
	if err != nil || len(words) < 2 {
		t.Fatalf("device of volume %s on node %s: %q, %v", volume, node, out, err)
	}
	left := &leftDevice{kit: k, node: node, volume: volume, device: "/dev/" + words[0], file: path.Base(words[1]), since: time.Now()}
	reading := make(chan string, 1)
	left.reading = reading
	go func() {
		out, err := k.onNode(t.Context(), node, "while dd if="+left.device+" of=/dev/null bs=4096 count=1 iflag=direct 2>&1; do sleep 0.1; done | tail -n 5")
		reading <- fmt.Sprintf("%s %v", out, err)
	}()
	t.Logf("node %s has %s over %s", node, left.device, left.file)
	return left
}

// check waits until the device is gone from its node, which is back, with all that
// had been mounted of the volumes of pod, and reports how long that took since then. It
// is the node plugin that takes it away, which tells of it.
func (l *leftDevice) check(t *testing.T, back time.Time, pod *corev1.Pod, over string) {
	t.Helper()
	select {
	case ended := <-l.reading:
		if !strings.Contains(ended, "Input/output error") {
			t.Errorf("who read the device when its engine ended got %q", ended)
		}
	case <-time.After(time.Until(back.Add(staleTimeout))):
		t.Fatalf("who read the device when its engine ended waits %s after its node was back", time.Since(back).Round(time.Second))
	}
	Report(t, Figure{Name: "node that was cut off back to error for who uses a stale device, journaled " + over, Got: time.Since(back).Seconds(), Unit: "s"})
	WaitFor(t, staleTimeout, "the device, and the mounts of pod "+pod.Name+", to go from node "+l.node, func(ctx context.Context) error {
		look := "for b in /sys/block/loop*/loop/backing_file; do cat $b; done 2>/dev/null | grep " + l.file + "; grep " + string(pod.UID) + " /proc/self/mountinfo; ls -d /var/lib/kubelet/pods/" + string(pod.UID) + " 2>/dev/null; true"
		out, err := l.kit.onNode(ctx, l.node, look)
		if err == nil && strings.TrimSpace(out) != "" {
			err = fmt.Errorf("there is %s", out)
		}
		return err
	})
	Report(t, Figure{Name: "node that was cut off back to stale device gone, journaled " + over, Got: time.Since(back).Seconds(), Unit: "s"})
	// It tells of it when it has done it, which is seen before.
	WaitFor(t, podTimeout, "the node plugin of "+l.node+" to tell of "+l.device, func(ctx context.Context) error {
		text, err := l.pluginLog(ctx)
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			if strings.Contains(line, "not attached to this node any more is taken away") && strings.Contains(line, l.volume) && strings.Contains(line, l.device) {
				return nil
			}
		}
		return fmt.Errorf("it tells of %q", endOfLog(text, logLines))
	})
}

// pluginLog is what the node plugin of the device's node has logged since the device was
// found.
func (l *leftDevice) pluginLog(ctx context.Context) (string, error) {
	plugins, err := env.A.nodePlugins(ctx)
	if err != nil {
		return "", err
	}
	pod, found := plugins[l.node]
	if !found {
		return "", fmt.Errorf("there is no node plugin on %s", l.node)
	}
	text, err := env.A.Client.CoreV1().Pods(SystemNamespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: "node", SinceTime: &metav1.Time{Time: l.since}}).DoRaw(ctx)
	return string(text), err
}
