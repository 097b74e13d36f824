package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// with returns parameters with some more.
func with(parameters map[string]string, more map[string]string) map[string]string {
	all := maps.Clone(parameters)
	maps.Copy(all, more)
	return all
}

// condition returns a group's condition of that type that is not ok; nil if there is
// none.
func condition(ctx context.Context, s *harness.Site, kind string) (*adminv1.Condition, error) {
	g, err := s.Group(ctx, groupName)
	for _, c := range g.GetConditions() {
		if c.GetType() == kind && !c.GetOk() {
			return c, err
		}
	}
	return nil, err
}

// TestReplicaOnAFullDisk fills the disk of a replica of which a view holds what there
// is. Production goes on and says why the replica does not follow; the replica's
// points stay, and stay prefixes; nothing is sent in
// vain. Without the view, and after a kill, it makes room. With room again it catches up by itself, without an image.
func TestReplicaOnAFullDisk(t *testing.T) {
	ctx, env := newEnv(t)
	disk := must(env.MountSmallDisk(ctx, "b", 700*mib))(t)
	pair := must(env.StartPair(ctx))(t)
	volumes := newBlockVolumes(ctx, t, pair.A, 2, 64*mib, with(replicated, map[string]string{"checkpointInterval": "200ms"}))
	c := newChains(volumes, 4)
	c.start(t)
	check(t, pair.B.AwaitPoint(ctx, groupName, time.Now()))
	held := must(pair.B.OpenView(ctx, groupName, "latest"))(t)
	before := must(held.Digest(volumes[0].ID))(t)
	stores := storesOf(t, pair.B, volumes)
	check(t, disk.Fill(0))

	check(t, harness.Until(ctx, 100*time.Millisecond, func() error {
		for _, v := range volumes {
			check(t, writeNoise(v, 16*mib))
		}
		said, err := condition(ctx, pair.A, "Replicating")
		if err == nil && said.GetReason() != "PeerFull" {
			err = fmt.Errorf("site a says of replication: %v", said)
		}
		return err
	}))
	if said := must(condition(ctx, pair.A, "Replicating"))(t); !strings.Contains(said.GetMessage(), "no space") {
		t.Errorf("site a does not say why the replica does not follow: %v", said)
	}
	if said := must(condition(ctx, pair.B, "Room"))(t); said.GetReason() != "BackingFull" {
		t.Errorf("site b does not say that it is full: %v", said)
	}
	nothingInVain(ctx, t, pair, c)
	if after := must(held.Digest(volumes[0].ID))(t); after != before {
		t.Error("the view of the full replica has changed")
	}
	chainsAt(ctx, t, c, pair.B, "latest")
	check(t, held.Close(ctx))

	check(t, pair.B.Stop(syscall.SIGKILL))
	check(t, pair.B.Start(ctx))
	latestOpens(ctx, t, c, pair.B)
	check(t, disk.Empty())
	check(t, pair.B.AwaitPoint(ctx, groupName, time.Now()))
	c.stop()
	check(t, c.err())
	sameOnBoth(ctx, t, pair, volumes)
	c.verifyAll(ctx, t, pair.B, 0)
	if now := storesOf(t, pair.B, volumes); !slices.Equal(now, stores) {
		t.Errorf("the replica has %v instead of %v: it took a whole image, and was not away for longer than the window", now, stores)
	}
}

// latestOpens opens a full replica's newest point, of which no view holds anything any more:
// it gives way to what is sent, and the next one is there when both members have it.
func latestOpens(ctx context.Context, t *testing.T, c *chains, s *harness.Site) {
	t.Helper()
	check(t, harness.Until(ctx, 100*time.Millisecond, func() error {
		view, err := s.OpenView(ctx, groupName, "latest")
		if err != nil {
			return err
		}
		_, err = c.verify(view)
		check(t, errors.Join(err, view.Close(ctx)))
		return nil
	}))
}

// nothingInVain has the chains go on beside a full replica, of which no member takes
// anything more, and makes sure that hardly anything is sent to it.
func nothingInVain(ctx context.Context, t *testing.T, pair *harness.Pair, c *chains) {
	t.Helper()
	var written, sent int64
	for before, now := "", durable(ctx, t, pair.B); before != now; {
		before = now
		written, sent = c.writtenBytes(), pair.ToB.SentBytes()
		settle(3 * time.Second)
		written, sent = c.writtenBytes()-written, pair.ToB.SentBytes()-sent
		now = durable(ctx, t, pair.B)
	}
	t.Logf("beside a full replica %d KiB were written and %d KiB sent", written>>10, sent>>10)
	if written == 0 {
		t.Error("production does not go on beside a full replica")
	}
	check(t, c.err())
	check(t, pair.A.AwaitPoint(ctx, groupName, time.Now()))
	if sent > 2*mib {
		t.Errorf("%d bytes were sent to a replica that has no room for them", sent)
	}
}

// durable is how far a site's volumes are.
func durable(ctx context.Context, t *testing.T, s *harness.Site) string {
	t.Helper()
	status := must(s.Admin.GetStatus(ctx, &adminv1.GetStatusRequest{}))(t)
	var all []string
	for _, v := range status.GetVolumes() {
		all = append(all, v.GetDurable().String())
	}
	return strings.Join(all, " ")
}

// storesOf are the directories of the stores that a site has of volumes: a whole image
// is a new one.
func storesOf(t *testing.T, s *harness.Site, volumes []*harness.Volume) (all []string) {
	t.Helper()
	for _, v := range volumes {
		all = append(all, must(filepath.Glob(filepath.Join(s.Config.Root, "volumes", v.ID, "store-*")))(t)...)
	}
	return all
}
