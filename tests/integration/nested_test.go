package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

const (
	nestedCalls = 160 // before the site is killed, and as many after
	// nestedImages is how many positions of each file system are opened;
	// LOCKSTEP_TEST_ROUNDS multiplies it, and 30 opens every one.
	nestedImages = 16
)

// seed starts what is random: LOCKSTEP_TEST_SEED, or 1. The calls repeat with
// it; how the kernel orders what they cause does not.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := uint64(1)
	if text := os.Getenv("LOCKSTEP_TEST_SEED"); text != "" {
		n = must(strconv.ParseUint(text, 10, 64))(t)
	}
	t.Logf("LOCKSTEP_TEST_SEED=%d", n)
	return n
}

// TestEveryPositionIsACrashImage runs a store on a file system on a volume. At
// every position of the outer volume the inner store must be what a power loss
// would have left of it, so these are crash tests of the whole stack, and of
// the order of writes that the outer volume promises: of the inner store over a
// real file system, of the file system over a device of ours, and of the view
// at a position that no checkpoint marks.
//
// The site is killed and started again in the middle, so positions of both
// timelines are among them.
func TestEveryPositionIsACrashImage(t *testing.T) {
	for _, fsType := range []string{"ext4", "xfs"} {
		t.Run(fsType, func(t *testing.T) {
			ctx, env := newEnv(t)
			seed := seed(t)
			site := must(env.StartSite(ctx, harness.SiteConfig{Name: "a"}))(t)
			v := must(site.CreateVolume(ctx, harness.VolumeSpec{
				Name: "outer", FSType: fsType, SizeBytes: 512 * mib, Parameters: map[string]string{"group": groupName},
			}))(t)
			check(t, site.Publish(ctx, v))
			mark := newMarker(t, v.Target)
			inner := must(newInnerStore(v.Target, mark, seed))(t)
			from := must(site.Admin.TakePoint(ctx, &adminv1.TakePointRequest{Group: groupName}))(t)

			check(t, inner.run(ctx, nestedCalls))
			restarted := make(chan error, 1)
			go func() { restarted <- restart(ctx, site) }()
			err := inner.run(ctx, nestedCalls)
			check(t, errors.Join(err, <-restarted, inner.close()))
			check(t, mark.file.Close())
			check(t, site.Unpublish(ctx, v, true))
			check(t, site.Stop(syscall.SIGTERM))
			t.Logf("%d states and %d promises of the inner store", len(inner.states), len(inner.promises))

			images := crashImages{env: env, fsType: fsType, from: must(site.OpenHistory(v))(t)}
			rng := rand.New(rand.NewPCG(seed, 2))
			images.check(ctx, t, from.GetPoint().GetCheckpoint(), nestedImages*rounds, rng, func(_ journal.Position, dir string) error {
				if err := inner.checkCrashed(ctx, dir, rng); err != nil {
					return fmt.Errorf("the inner store: %w", err)
				}
				return nil
			})
		})
	}
}

// restart kills a site and starts it again, while its devices are in use. If
// that fails, so do the devices: what waits for them could not be ended.
func restart(ctx context.Context, s *harness.Site) error {
	err := s.Stop(syscall.SIGKILL)
	if err == nil {
		err = s.Start(ctx)
	}
	if err != nil {
		err = errors.Join(err, s.Lose())
	}
	return err
}
