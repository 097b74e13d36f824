package integration

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// TestFailoverAndFailback loses site a under load, goes on with site b, lets
// a come back as the replica, and returns.
func TestFailoverAndFailback(t *testing.T) {
	ctx, env := newEnv(t)
	pair := must(env.StartPair(ctx))(t)
	volumes := newBlockVolumes(ctx, t, pair.A, 3, 64*mib, replicated)
	for _, v := range volumes {
		fillWithNoise(t, v, 16*mib) // which a full copy would have to send
	}
	c := newChains(volumes, 4)
	c.start(t)
	settle(time.Second)
	check(t, pair.B.AwaitPoint(ctx, groupName, time.Now()))
	settle(500 * time.Millisecond)
	check(t, pair.A.Lose())
	c.stop() // the devices are gone, so the chains have failed
	for _, v := range volumes {
		check(t, v.ForgetMounts())
	}

	onB := takeOver(ctx, t, pair.B, c)
	before := c.writtenBytes()
	c.start(t)
	settle(time.Second)
	sent := pair.ToA.SentBytes()
	check(t, pair.A.Start(ctx))
	awaitRole(ctx, t, pair.A, adminv1.Role_ROLE_REPLICA)
	check(t, pair.A.AwaitPoint(ctx, groupName, time.Now()))
	c.stop()
	check(t, c.err())
	sameOnBoth(ctx, t, pair, onB)
	written := c.writtenBytes() - before
	sent = pair.ToA.SentBytes() - sent
	t.Logf("failback: %d KiB written on b since the fork, %d KiB sent to a with TLS and all", written>>10, sent>>10)
	// The wire adds headers of records, batches and TLS, and a heartbeat
	// each second: more than that would be a copy of what a has.
	if limit := written + written/8 + mib; sent > limit {
		t.Errorf("%d bytes were sent for %d written since the fork, want at most %d", sent, written, limit)
	}
	c.verifyAll(ctx, t, pair.A, 0)
	failBack(ctx, t, pair, c, volumes)
}

// TestStalePrimaryStepsDown kills site a's process only. Its devices and their
// users wait for it, and must not go on as if nothing had happened when it
// comes back to find that site b took over.
func TestStalePrimaryStepsDown(t *testing.T) {
	ctx, env := newEnv(t)
	pair := must(env.StartPair(ctx))(t)
	volumes := newBlockVolumes(ctx, t, pair.A, 3, 16*mib, replicated)
	stale := newChains(volumes, 4)
	stale.start(t)
	settle(time.Second)
	check(t, pair.B.AwaitPoint(ctx, groupName, time.Now()))
	check(t, pair.A.Stop(syscall.SIGKILL))
	c := stale.clone()
	takeOver(ctx, t, pair.B, c)
	c.start(t)

	check(t, pair.A.Start(ctx))
	awaitRole(ctx, t, pair.A, adminv1.Role_ROLE_REPLICA)
	check(t, harness.Until(ctx, 20*time.Millisecond, func() error {
		if n := stale.failed(); n < 4 {
			return fmt.Errorf("%d of 4 writers on the old primary have been refused", n)
		}
		return nil
	}))
	stale.stop()
	check(t, pair.A.AwaitPoint(ctx, groupName, time.Now()))
	settle(300 * time.Millisecond)
	c.stop()
	check(t, c.err())
	sameOnBoth(ctx, t, pair, c.volumes)
	failBack(ctx, t, pair, c, volumes)
}

// failBack makes site a primary again, as an operator does who has ended what
// used the volumes on both sites, and has the chains go on there.
func failBack(ctx context.Context, t *testing.T, pair *harness.Pair, c *chains, onA []*harness.Volume) {
	t.Helper()
	for _, v := range onA {
		check(t, pair.A.Unpublish(ctx, v, true))
	}
	for _, v := range c.volumes {
		check(t, pair.B.Unpublish(ctx, v, true))
	}
	onA = takeOver(ctx, t, pair.A, c)
	c.start(t)
	settle(500 * time.Millisecond)
	awaitRole(ctx, t, pair.B, adminv1.Role_ROLE_REPLICA)
	check(t, pair.B.AwaitPoint(ctx, groupName, time.Now()))
	c.stop()
	check(t, c.err())
	sameOnBoth(ctx, t, pair, onA)
	c.verifyAll(ctx, t, pair.B, 0)
}

// takeOver fails the group over to a site's newest point, checks what is
// there, and has the chains go on with the volumes of that site.
func takeOver(ctx context.Context, t *testing.T, s *harness.Site, c *chains) []*harness.Volume {
	t.Helper()
	began := time.Now()
	resp := must(s.Admin.Failover(ctx, &adminv1.FailoverRequest{Group: groupName, At: "latest"}))(t)
	lengths := chainsAt(ctx, t, c, s, "latest")
	acked := c.writtenBytes() / chainBlock
	var there int64
	for _, n := range lengths {
		there += int64(n)
	}
	var adopted []*harness.Volume
	for _, v := range c.volumes {
		v := s.Adopted(v)
		check(t, s.Publish(ctx, v))
		adopted = append(adopted, v)
	}
	t.Logf("site %s took over in %v, RPO %v: %d blocks there, %d acknowledged", s.Config.Name, time.Since(began), resp.GetRpo().AsDuration(), there, acked)
	c.resume(lengths, adopted)
	return adopted
}

// fillWithNoise writes what cannot be compressed behind the chains' blocks.
func fillWithNoise(t *testing.T, v *harness.Volume, bytes int64) {
	t.Helper()
	check(t, writeNoise(v, bytes))
}

// writeNoise is fillWithNoise where a write may be refused.
func writeNoise(v *harness.Volume, bytes int64) (err error) {
	f, err := os.OpenFile(v.Target, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buffer, err := unix.Mmap(-1, 0, int(mib), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Munmap(buffer)) }()
	for off := mib; off < mib+bytes; off += mib {
		_, _ = rand.Read(buffer) // never fails
		if _, err := f.WriteAt(buffer, off); err != nil {
			return err
		}
	}
	return f.Sync()
}
