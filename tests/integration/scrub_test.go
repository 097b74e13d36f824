package integration

import (
	"context"
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// scrubShown is what the tests read of `lockstep volume scrub -o json`.
type scrubShown struct {
	Volume    struct{ Damaged int }
	ReadBytes int64
	Peer      string
	PeerError string
	Damaged   []struct{ File, What, Wanted, Found, Reason string }
	Repaired  []struct{ File, What string }
}

func scrub(ctx context.Context, t *testing.T, env *harness.Env, s *harness.Site, args ...string) (out scrubShown, err error) {
	t.Helper()
	text, err := env.Lockstep(ctx, append([]string{"volume", "scrub", "raw-0", "-o", "json", "--admin", s.AdminSocket}, args...)...)
	check(t, json.Unmarshal([]byte(text), &out))
	return out, err
}

// TestScrubRepairsFromThePeer damages both copies of a replicated volume, in different
// places at different times, and has each site read everything and ask the other.
func TestScrubRepairsFromThePeer(t *testing.T) {
	ctx, env := newEnv(t)
	pair := must(env.StartPair(ctx))(t)
	v := newBlockVolumes(ctx, t, pair.A, 1, 32*mib, replicated)[0]
	fillWithNoise(t, v, 16*mib)
	check(t, pair.B.AwaitPoint(ctx, groupName, time.Now()))
	for _, site := range []*harness.Site{pair.A, pair.B} { // which seals what they have
		check(t, site.Stop(syscall.SIGTERM))
		check(t, site.Start(ctx))
	}
	check(t, pair.B.AwaitPoint(ctx, groupName, time.Now()))
	for site, peer := range map[*harness.Site]string{pair.A: "b", pair.B: "a"} {
		flipRecords(t, site.Config.Root)
		found, err := scrub(ctx, t, env, site, "--repair")
		if err != nil || len(found.Damaged) > 0 || found.PeerError != "" {
			t.Errorf("site %s: damage is left: %v, %+v", site.Config.Name, err, found)
		}
		if len(found.Repaired) == 0 || found.Peer != peer || found.ReadBytes == 0 {
			t.Errorf("site %s: repaired was %+v with %q", site.Config.Name, found.Repaired, found.Peer)
		}
	}
	now := must(pair.A.Group(ctx, groupName))(t)
	for _, c := range now.GetConditions() {
		if c.GetType() == "Intact" && !c.GetOk() {
			t.Errorf("the group is not intact after the repair: %v", c)
		}
	}
}

// TestDamageOfALoneVolume: without another copy what is damaged is named, and known after
// a restart, until it is whole again.
func TestDamageOfALoneVolume(t *testing.T) {
	ctx, env := newEnv(t)
	site := must(env.StartSite(ctx, harness.SiteConfig{Name: "a"}))(t)
	v := newBlockVolumes(ctx, t, site, 1, 32*mib, map[string]string{"group": groupName})[0]
	fillWithNoise(t, v, 16*mib)
	if found, err := scrub(ctx, t, env, site); err != nil || len(found.Damaged) > 0 {
		t.Fatalf("a whole volume is damaged: %v, %+v", err, found)
	}
	check(t, site.Stop(syscall.SIGTERM)) // which seals what there is: the scrub reads nothing else
	check(t, site.Start(ctx))
	flipRecords(t, site.Config.Root)
	found, err := scrub(ctx, t, env, site, "--repair")
	if err == nil || len(found.Damaged) == 0 || found.Volume.Damaged != len(found.Damaged) {
		t.Fatalf("the scrub ends with %v and names %+v", err, found)
	}
	for _, d := range found.Damaged {
		if !strings.HasPrefix(d.File, "journal/") || d.Wanted == "" || d.Found == "" || !strings.Contains(d.Reason, "not replicated") {
			t.Errorf("a place is described as %+v", d)
		}
	}
	check(t, site.Stop(syscall.SIGTERM))
	check(t, site.Start(ctx))
	said := must(condition(ctx, site, "Intact"))(t)
	if said.GetReason() != "Damaged" {
		t.Errorf("after a restart the site says of the group: %v", said)
	}
	status := must(env.Lockstep(ctx, "status", "--admin", site.AdminSocket))(t)
	if !strings.Contains(status, "DAMAGED") {
		t.Errorf("after a restart the status is\n%s", status)
	}
}
