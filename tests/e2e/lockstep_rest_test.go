//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"
)

// TestLockstepSnapshotAtRest takes a snapshot of a group that no pod uses, whose
// engines have been stopped, and reads both members' part of it.
func TestLockstepSnapshotAtRest(t *testing.T) {
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	over := env.BackingClasses[0]
	class, snapshotClass := ns.Class(Class{Over: over}), ns.SnapshotClass()
	var volumes []string
	var mounts []Mount
	for _, name := range []string{"data", "wal"} {
		ns.CreateClaim(Claim{Name: name, Class: class, Annotations: inGroup})
		mounts = append(mounts, Mount{Claim: name, Path: "/" + name})
	}
	ns.RunPod(Pod{Name: "user", Mounts: mounts})
	ns.Sh("user", "echo data > /data/f; echo wal > /wal/f") // and the unmount writes it
	for _, m := range mounts {
		volumes = append(volumes, ns.VolumeID(m.Claim))
	}
	ns.DeletePod("user")
	ns.awaitRest(volumes...)
	Report(t, Figure{Name: "snapshot of two claims at rest ready", Got: ns.Snapshot("marker", snapshotClass, "data").Seconds(), Unit: "s"})
	Report(t, Figure{Name: "another one, its engines still there", Got: ns.Snapshot("again", snapshotClass, "data").Seconds(), Target: 1, Unit: "s"})
	ns.CreateClaim(Claim{Name: "restored-data", Class: class, From: fromSnapshot("marker")})
	ns.CreateClaim(Claim{Name: "restored-wal", Class: ns.memberClass(over, volumes[1]), From: fromSnapshot("marker")})
	ns.RunPod(Pod{Name: "reader", Mounts: []Mount{{Claim: "restored-data", Path: "/data"}, {Claim: "restored-wal", Path: "/wal"}}})
	if got := ns.Sh("reader", "cat /data/f /wal/f"); got != "data\nwal" {
		t.Errorf("the restored volumes hold %q", got)
	}
}

// awaitRest waits until volumes have no engines.
func (n *Namespace) awaitRest(volumes ...string) {
	n.t.Helper()
	WaitFor(n.t, volumeTimeout, "engines that nothing uses to stop", func(ctx context.Context) error {
		for _, volume := range volumes {
			pod, err := n.EnginePod(ctx, volume)
			if err != nil {
				return err
			}
			if pod != nil {
				return fmt.Errorf("pod %s is there", pod.Name)
			}
		}
		return nil
	})
}
