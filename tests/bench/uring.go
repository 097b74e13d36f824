package main

import (
	"fmt"
	"os"
	"slices"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// ringSwitch is the kernel's switch for FUSE over io_uring.
const ringSwitch = "/sys/module/fuse/parameters/enable_uring"

// defaultKinds are those that this kernel has.
func defaultKinds() []string {
	if _, err := os.Stat(ringSwitch); err != nil {
		return slices.DeleteFunc(slices.Clone(kinds), func(kind string) bool { return kind == onRing })
	}
	return kinds
}

// overRing makes a volume that is served over io_uring, of a site of its own. The
// kernel's switch is put back afterwards.
func (b *bench) overRing() (string, error) {
	before, err := os.ReadFile(ringSwitch)
	if err != nil {
		return "", err
	}
	b.env.Undo(func() error { return os.WriteFile(ringSwitch, before, 0o644) })
	if err := os.WriteFile(ringSwitch, []byte("Y"), 0o644); err != nil {
		return "", err
	}
	site, err := b.env.StartSite(b.ctx, harness.SiteConfig{Name: "ring", Transport: "io-uring"})
	if err != nil {
		return "", err
	}
	v, err := site.CreateVolume(b.ctx, harness.VolumeSpec{Name: onRing, SizeBytes: deviceBytes, Parameters: map[string]string{"blockSize": "4096"}})
	if err != nil {
		return "", err
	}
	if err := site.Publish(b.ctx, v); err != nil {
		return "", err
	}
	b.env.Undo(func() error { return site.Unpublish(b.ctx, v, true) })
	status, err := site.Admin.GetStatus(b.ctx, &adminv1.GetStatusRequest{})
	if err != nil {
		return "", err
	}
	if len(status.Volumes) != 1 || status.Volumes[0].Transport != "io-uring" {
		return "", fmt.Errorf("it is not served over io_uring: %v", status.Volumes)
	}
	return v.Target, nil
}
