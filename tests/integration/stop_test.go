package integration

import (
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// TestReplicatingSitesStopAtOnce: streams between sites last for ever, and
// must not hold up the orderly end of either.
func TestReplicatingSitesStopAtOnce(t *testing.T) {
	ctx, env := newEnv(t)
	pair := must(env.StartPair(ctx))(t)
	c := newChains(newBlockVolumes(ctx, t, pair.A, 2, 16*mib, replicated), 2)
	c.start(t)
	settle(500 * time.Millisecond)
	c.stop()
	check(t, c.err())
	check(t, pair.B.AwaitPoint(ctx, groupName, time.Now()))
	for _, s := range []*harness.Site{pair.B, pair.A} {
		began := time.Now()
		check(t, s.Stop(syscall.SIGTERM))
		took := time.Since(began)
		t.Logf("site %s stopped in %v", s.Config.Name, took)
		if took > 5*time.Second {
			t.Errorf("site %s took %v to stop", s.Config.Name, took)
		}
	}
}

// TestReplicaOfAnIdleGroupHasAPoint: a replica that is filled after the last
// write must be able to fail over nevertheless.
func TestReplicaOfAnIdleGroupHasAPoint(t *testing.T) {
	ctx, env := newEnv(t)
	pair := must(env.StartPair(ctx))(t)
	check(t, pair.B.Stop(syscall.SIGTERM))
	c := newChains(newBlockVolumes(ctx, t, pair.A, 2, 16*mib, replicated), 2)
	c.start(t)
	settle(500 * time.Millisecond)
	c.stop()
	check(t, c.err())
	check(t, pair.A.AwaitPoint(ctx, groupName, time.Now()))
	check(t, pair.B.Start(ctx))
	check(t, pair.B.AwaitPoint(ctx, groupName, time.Now()))
}
