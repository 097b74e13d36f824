package integration

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/node/holder"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// TestCleanUpAfterSiteDied takes away what a killed site left: file systems
// with unwritten data on devices that nobody serves. Unmounting those waits for
// ever unless the devices are made to fail.
func TestCleanUpAfterSiteDied(t *testing.T) {
	ctx, env := newEnv(t)
	site := must(env.StartSite(ctx, harness.SiteConfig{Name: "a"}))(t)
	for _, fsType := range []string{"ext4", "xfs"} {
		v := must(site.CreateVolume(ctx, harness.VolumeSpec{Name: fsType, FSType: fsType, SizeBytes: 512 * mib}))(t)
		check(t, site.Publish(ctx, v))
		check(t, os.WriteFile(filepath.Join(v.Target, "unwritten"), make([]byte, 8*mib), 0o600))
	}
	check(t, site.Stop(syscall.SIGKILL))

	closed := make(chan error, 1)
	go func() { closed <- env.Close() }()
	select {
	case err := <-closed:
		check(t, err)
	case <-time.After(time.Minute):
		// Let it go on, or this process could not even be killed.
		c := must(holder.Dial(context.Background(), site.Config.Root+"/holder.sock"))(t)
		check(t, c.Shutdown(context.Background()))
		t.Errorf("the clean-up hung until the devices were taken away; then it returned %v", <-closed)
	}
}
