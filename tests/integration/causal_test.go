package integration

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// replicated are the parameters of a group that is replicated to site b, with
// as many points as there can be.
var replicated = map[string]string{"group": groupName, "checkpointInterval": "100ms", "replicateTo": "b"}

// settle lets a load run for a time. Nothing relies on what is reached by then:
// what a test needs it waits for.
func settle(d time.Duration) { <-time.After(d) }

func TestEveryPointOfBothSitesHoldsAPrefix(t *testing.T) {
	ctx, env := newEnv(t)
	pair := must(env.StartPair(ctx))(t)
	volumes := newBlockVolumes(ctx, t, pair.A, 3, 16*mib, replicated)
	c := newChains(volumes, 4)
	c.start(t)
	const enough = 60 // of some each 100 ms
	// The replica has none of before its image.
	for _, s := range []*harness.Site{pair.A, pair.B} {
		check(t, harness.Until(ctx, 100*time.Millisecond, func() error {
			points, err := s.Points(ctx, groupName)
			if err == nil && len(points) < enough {
				err = fmt.Errorf("site %s has %d points of %d", s.Config.Name, len(points), enough)
			}
			return err
		}))
	}
	c.stop()
	check(t, c.err())
	check(t, pair.B.AwaitPoint(ctx, groupName, time.Now()))
	for _, s := range []*harness.Site{pair.A, pair.B} {
		if n := c.verifyAll(ctx, t, s, 0); n < 40 {
			t.Errorf("site %s has only %d points", s.Config.Name, n)
		}
	}
	t.Logf("%d blocks written", c.writtenBytes()/chainBlock)
}

// blocksAlone is how many blocks each chain writes while there is no replica to wait for,
// which is how a test knows that nothing waits for it: 0.4 s at a chain's pace.
const blocksAlone = 200

func TestReplicaKilledUnderLoad(t *testing.T) {
	ctx, env := newEnv(t)
	pair := must(env.StartPair(ctx))(t)
	volumes := newBlockVolumes(ctx, t, pair.A, 3, 16*mib, replicated)
	c := newChains(volumes, 4)
	c.start(t)
	began := time.Now()
	check(t, pair.B.AwaitPoint(ctx, groupName, began)) // the first sync is done
	held := must(pair.B.Points(ctx, groupName))(t)
	var away time.Duration
	for range 5 * rounds {
		down := time.Now()
		check(t, pair.B.Stop(syscall.SIGKILL))
		c.awaitMore(ctx, t, blocksAlone)
		away = max(away, c.slowest(down, time.Now()))
		check(t, pair.B.Start(ctx))
		settle(300 * time.Millisecond)
	}
	// It must also come level under load, not only once the load ends.
	check(t, pair.B.AwaitPoint(ctx, groupName, time.Now()))
	ended := time.Now()
	c.stop()
	check(t, c.err())
	t.Logf("slowest write while site b was down: %v; of all: %v", away, c.slowest(began, ended))
	sameOnBoth(ctx, t, pair, volumes)
	c.verifyAll(ctx, t, pair.A, 0)
	c.verifyAll(ctx, t, pair.B, 0)
	// Coming back is not a sync from nothing: what b held it still holds.
	if points := must(pair.B.Points(ctx, groupName))(t); points[0].GetCheckpoint() > held[0].GetCheckpoint() {
		t.Errorf("site b's oldest point was %d and is %d after the kills", held[0].GetCheckpoint(), points[0].GetCheckpoint())
	}
}

func TestConnectionCutUnderLoad(t *testing.T) {
	ctx, env := newEnv(t)
	pair := must(env.StartPair(ctx))(t)
	volumes := newBlockVolumes(ctx, t, pair.A, 3, 16*mib, replicated)
	c := newChains(volumes, 4)
	c.start(t)
	var cut time.Duration
	for range 5 * rounds {
		settle(400 * time.Millisecond)
		from := time.Now()
		pair.ToB.Cut()
		c.awaitMore(ctx, t, blocksAlone)
		cut = max(cut, c.slowest(from, time.Now()))
		pair.ToB.Mend()
	}
	check(t, pair.B.AwaitPoint(ctx, groupName, time.Now()))
	c.stop()
	check(t, c.err())
	t.Logf("slowest write while the connection was cut: %v", cut)
	sameOnBoth(ctx, t, pair, volumes)
	c.verifyAll(ctx, t, pair.B, 0)
}
