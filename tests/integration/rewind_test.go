package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// takePoint takes a checkpoint and returns its number as --at wants it.
func takePoint(ctx context.Context, t *testing.T, s *harness.Site) string {
	t.Helper()
	taken := must(s.Admin.TakePoint(ctx, &adminv1.TakePointRequest{Group: groupName}))(t)
	return fmt.Sprint(taken.GetPoint().GetCheckpoint())
}

// lockstep runs a command of the CLI that must succeed.
func lockstep(ctx context.Context, t *testing.T, env *harness.Env, s *harness.Site, args ...string) {
	t.Helper()
	must(env.Lockstep(ctx, append(args, "--admin", s.AdminSocket)...))(t)
}

func TestRewindInPlaceWithFileSystems(t *testing.T) {
	ctx, env := newEnv(t)
	site := must(env.StartSite(ctx, harness.SiteConfig{Name: "a"}))(t)
	parameters := map[string]string{"group": groupName}
	var volumes []*harness.Volume
	for _, fsType := range []string{"ext4", "xfs"} {
		v := must(site.CreateVolume(ctx, harness.VolumeSpec{Name: fsType, FSType: fsType, SizeBytes: 512 * mib, Parameters: parameters}))(t)
		check(t, site.Publish(ctx, v))
		volumes = append(volumes, v)
	}
	write := func(text string) {
		for _, v := range volumes {
			check(t, os.WriteFile(filepath.Join(v.Target, "note"), []byte(text), 0o600))
			_ = must(harness.Run(ctx, "sync", "--file-system", v.Target))(t)
		}
	}
	holds := func(want string) {
		t.Helper()
		for _, v := range volumes {
			if got := string(must(os.ReadFile(filepath.Join(v.Target, "note")))(t)); got != want {
				t.Errorf("%s holds %q, want %q", v.Name, got, want)
			}
		}
	}
	unmounted := func(args ...string) {
		t.Helper()
		for _, v := range volumes {
			check(t, site.Unpublish(ctx, v, false))
		}
		lockstep(ctx, t, env, site, args...)
		for _, v := range volumes {
			check(t, site.Publish(ctx, v))
		}
	}

	write("first")
	first := takePoint(ctx, t, site)
	write("second")
	second := takePoint(ctx, t, site)
	write("third")
	refusedRewind(ctx, t, env, site, first, "is mounted at "+filepath.Dir(volumes[0].Target)+"/", "unmount it first")
	refusedRewind(ctx, t, env, site, "999999", "nearest") // before anybody unmounts
	holds("third")
	unmounted("rewind", "start", groupName, "--at", first)
	holds("first")
	write("another second")
	unmounted("rewind", "undo", groupName)
	holds("third")
	unmounted("rewind", "start", groupName, "--at", second)
	holds("second")
	lockstep(ctx, t, env, site, "rewind", "commit", groupName, "--yes")
	holds("second")
	if _, err := env.Lockstep(ctx, "rewind", "undo", groupName, "--admin", site.AdminSocket); err == nil {
		t.Error("a committed rewind was undone")
	}
	write("fourth")
	holds("fourth")
}

// refusedRewind checks that a rewind fails and what it says.
func refusedRewind(ctx context.Context, t *testing.T, env *harness.Env, s *harness.Site, at string, says ...string) {
	t.Helper()
	_, err := env.Lockstep(ctx, "rewind", "start", groupName, "--at", at, "--admin", s.AdminSocket)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("a rewind with mounted file systems: %v, want exit status 1", err)
	}
	for _, want := range says {
		if message := string(exit.Stderr); !strings.Contains(message, want) {
			t.Errorf("the refusal does not say %q: %s", want, message)
		}
	}
}

// TestRewindNamesWhoKeepsAMount is about containers that were started while a
// volume was mounted: where mounts do not propagate, they keep it.
func TestRewindNamesWhoKeepsAMount(t *testing.T) {
	ctx, env := newEnv(t)
	site := must(env.StartSite(ctx, harness.SiteConfig{Name: "a"}))(t)
	v := must(site.CreateVolume(ctx, harness.VolumeSpec{Name: "kept", FSType: "ext4", SizeBytes: 64 * mib, Parameters: map[string]string{"group": groupName}}))(t)
	check(t, site.Publish(ctx, v))
	at := takePoint(ctx, t, site)

	keeper := exec.Command("cat")                                                // until its input ends
	keeper.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // and mounts private
	input := must(keeper.StdinPipe())(t)
	check(t, keeper.Start())
	check(t, site.Unpublish(ctx, v, false))
	refusedRewind(ctx, t, env, site, at, fmt.Sprintf("in the mount namespace of process %d (cat)", keeper.Process.Pid))

	check(t, input.Close())
	check(t, keeper.Wait())
	lockstep(ctx, t, env, site, "rewind", "start", groupName, "--at", at)
}

// TestRewindKilledInTheMiddle kills the site at different moments of a rewind.
// After a restart all members are where they were, or all are rewound.
func TestRewindKilledInTheMiddle(t *testing.T) {
	ctx, env := newEnv(t)
	site := must(env.StartSite(ctx, harness.SiteConfig{Name: "a"}))(t)
	volumes := newBlockVolumes(ctx, t, site, 3, 16*mib, map[string]string{"group": groupName})
	c := newChains(volumes, 2)
	rewound, stayed := 0, 0
	kills := 12 * rounds
	for round := 0; round < kills || rewound == 0 && round < kills+laterKills; round++ {
		ctx := roundContext(t)
		c.start(t)
		c.awaitMore(ctx, t, 40)
		c.stop()
		at := takePoint(ctx, t, site)
		there := chainsAt(ctx, t, c, site, at)
		c.start(t)
		c.awaitMore(ctx, t, 40)
		c.stop()
		check(t, c.err())
		now := chainsAt(ctx, t, c, site, takePoint(ctx, t, site))
		if slices.Equal(there, now) {
			t.Fatal("nothing was written between the points")
		}
		if killDuringRewind(ctx, t, site, at, killAfter(round, kills, 2*time.Millisecond)) {
			rewound++
			c.resume(there, volumes)
			lockstep(ctx, t, env, site, "rewind", "commit", groupName, "--yes")
		} else {
			stayed++
			there = now
		}
		if got := chainsAt(ctx, t, c, site, takePoint(ctx, t, site)); !slices.Equal(got, there) {
			t.Fatalf("round %d: the chains have %v blocks, want %v", round, got, there)
		}
	}
	t.Logf("%d kills: %d rewinds were finished, %d had not begun", rewound+stayed, rewound, stayed)
	if rewound == 0 {
		t.Error("no kill came after the rewind had begun")
	}
}

// laterKills is how many rounds there are beyond those of a test while all kills have come too
// early: as many as make the last one come after hundreds of times its moment.
const laterKills = 8

// killAfter is how long after its beginning a round kills what it has begun: a step later
// each time, and twice as late each time in the rounds beyond.
func killAfter(round, rounds int, step time.Duration) time.Duration {
	if round < rounds {
		return time.Duration(round) * step
	}
	return time.Duration(rounds) * step << (round - rounds)
}

// killDuringRewind starts a rewind, kills the site after a delay and restarts
// it. It reports whether the group is rewound.
func killDuringRewind(ctx context.Context, t *testing.T, s *harness.Site, at string, delay time.Duration) bool {
	t.Helper()
	answered := make(chan error, 1)
	go func() {
		_, err := s.Admin.StartRewind(ctx, &adminv1.StartRewindRequest{Group: groupName, At: at})
		answered <- err
	}()
	settle(delay)
	check(t, s.Stop(syscall.SIGKILL))
	answer := <-answered
	check(t, s.Start(ctx))
	g := must(s.Group(ctx, groupName))(t)
	rewound := g.GetRewind() != nil
	if rewound && fmt.Sprint(g.GetRewind().GetTo().GetCheckpoint()) != at {
		t.Fatalf("the rewind is to %v, want %s", g.GetRewind().GetTo(), at)
	}
	if answer == nil && !rewound {
		t.Fatal("the rewind was acknowledged and is not there")
	}
	return rewound
}
