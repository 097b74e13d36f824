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
		plain := must(env.Beside(func() error { return s.Stop(syscall.SIGTERM) }))(t)
		took := time.Since(began)
		t.Logf("site %s stopped in %v, the longest write to a plain file beside it took %v", s.Config.Name, took, plain)
		if limit := longestStop(plain); took > limit {
			t.Errorf("site %s took %v to stop, and was to take %v at most", s.Config.Name, took, limit)
		}
	}
}

// longestStop is how long a site may take to stop: 5 s on a machine that has nothing else
// to do, half of what it gives calls to end and many times what it needs, and on another
// one what that makes of some twenty syncs in a row.
func longestStop(plain time.Duration) time.Duration { return 5*time.Second + 20*plain }

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
