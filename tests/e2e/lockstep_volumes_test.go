//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// startTarget is how much longer a pod with a journaled claim may take to run
// than one with a claim of the backing class itself, in seconds.
const startTarget = 3

// TestLockstepClaimToPod makes a journaled claim and a pod over every backing
// class, uses the volume, and takes it away without a trace.
func TestLockstepClaimToPod(t *testing.T) {
	lockstepOn(t, env.A)
	type kind struct {
		name   string
		class  Class
		block  bool
		script string // fails where the volume is not what was asked for
	}
	const ext4, xfs = "grep -q ' /data ext4 ' /proc/mounts", "grep -q ' /data xfs ' /proc/mounts"
	var kinds []kind
	for _, over := range env.BackingClasses {
		kinds = append(kinds, kind{name: over, class: Class{Over: over}, script: ext4})
	}
	first, last := env.BackingClasses[0], env.BackingClasses[len(env.BackingClasses)-1]
	kinds = append(kinds,
		kind{name: "xfs", class: Class{Over: first, Parameters: map[string]string{"csi.storage.k8s.io/fstype": "xfs"}}, script: xfs},
		kind{name: "block", class: Class{Over: last}, block: true, script: "test -b /dev/data"},
		kind{name: "immediate", class: Class{Over: last, Immediate: true}, script: ext4})
	if len(env.BackingClasses) > 1 {
		kinds = append(kinds, kind{name: "journal over " + last, class: Class{Over: first, Parameters: map[string]string{"journalStorageClass": last}}, script: ext4})
		kinds = append(kinds, kind{name: "immediate over " + env.BackingClasses[1], class: Class{Over: env.BackingClasses[1], Immediate: true}, script: ext4})
	}
	ns := env.A.NewNamespace(t)
	reported := env.A.watchInUse(t)
	plain := map[string]time.Duration{} // of a claim of the backing class itself
	for i, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			ns := ns.For(t)
			if plain[k.class.Over] == 0 {
				name := fmt.Sprintf("plain-%d", i)
				plain[k.class.Over] = ns.timeToPod(name, Claim{Name: name, Class: k.class.Over}, false)
				Report(t, Figure{Name: "claim to pod running, " + k.class.Over, Got: plain[k.class.Over].Seconds(), Unit: "s"})
				ns.deletePod(name, metav1.DeleteOptions{})
			}
			name := fmt.Sprintf("data-%d", i)
			asked := time.Now()
			took := ns.timeToPod(name, Claim{Name: name, Class: ns.Class(k.class), Block: k.block}, k.class.Immediate)
			if at, err := reported.of(ns.VolumeID(name)); err != nil {
				t.Log(err)
			} else {
				Report(t, Figure{Name: "of which before the kubelet begins, " + k.name, Got: at.Sub(asked).Seconds(), Unit: "s"})
			}
			Report(t, Figure{Name: "journaled claim to pod running, " + k.name, Got: took.Seconds(), Target: plain[k.class.Over].Seconds() + startTarget, Unit: "s"})
			ns.Sh(name, k.script)
			ns.checkWrites(name, k.block)
			id := ns.VolumeID(name)
			began := time.Now()
			ns.DeletePod(name)
			ns.DeleteClaim(name)
			ns.AwaitVolumeGone(id)
			Report(t, Figure{Name: "pod and claim deleted to all gone, " + k.name, Got: time.Since(began).Seconds(), Unit: "s"})
		})
	}
}

// timeToPod makes a claim and a pod with it, and returns how long it took
// until that was ready. bound: the claim is bound before there is a pod.
func (n *Namespace) timeToPod(pod string, claim Claim, bound bool) time.Duration {
	n.t.Helper()
	began := time.Now()
	n.CreateClaim(claim)
	if bound {
		n.Volume(claim.Name)
	}
	path := "/data"
	if claim.Block {
		path = "/dev/data"
	}
	n.RunPod(Pod{Name: pod, Mounts: []Mount{{Claim: claim.Name, Path: path, Block: claim.Block}}})
	return time.Since(began)
}

// checkWrites writes to a pod's volume past its page cache and reads it back.
func (n *Namespace) checkWrites(pod string, block bool) {
	n.t.Helper()
	to := "/data/f"
	if block {
		to = "/dev/data"
	}
	script := fmt.Sprintf("head -c 8m /dev/urandom > /tmp/f; dd if=/tmp/f of=%[1]s bs=1M oflag=direct conv=fsync,notrunc 2>/dev/null; dd if=%[1]s bs=1M count=8 iflag=direct 2>/dev/null | cmp - /tmp/f && echo same", to)
	if got := n.Sh(pod, script); got != "same" {
		n.t.Errorf("the volume of pod %s holds other bytes than were written: %q", pod, got)
	}
}
