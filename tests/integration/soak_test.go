package integration

import (
	"context"
	"fmt"
	"maps"
	"os"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

const (
	// defaultSoak is what every test run takes of it; `make soak` gives it half
	// an hour.
	defaultSoak = 20 * time.Second
	// A site is killed every minute, or six times in a soak that is shorter.
	soakKillEvery = time.Minute
	soakCycles    = 6
	soakSamples   = 40
	soakChains    = 4
	soakVolumes   = 3
	soakBytes     = 16 * mib
	soakFioBytes  = 64 * mib
	// soakJournal is each volume's budget, the least there is, so that destage
	// runs nearly all the time.
	soakJournal = 64 * mib
)

// soak is two sites under a load that is verified, while all that can come and
// go does.
type soak struct {
	t    *testing.T
	env  *harness.Env
	pair *harness.Pair
	// volumes are the chains' and, last, the one that fio writes to.
	volumes []*harness.Volume
	chains  *chains
	fio     *fioRun
	thinned *thinned

	cycle     int
	kills     int
	snapshots []soakSnapshot
	forks     []*soakFork
	did       map[string]int
	began     time.Time
	samples   []soakSample
}

// TestSoak runs a group of four volumes that is replicated to a second site:
// chains of writes over all of them and fio with verification, while snapshots,
// views, clones, writable forks and rewinds come and go, journals are destaged, and either site
// is killed every minute. Beside them a third site has a history that thins. Every cycle looks whether the newest point of all
// sites holds all that was acknowledged, and the forks all that was written to them. At the end both sites hold the same,
// every point is a prefix, and memory, descriptors, goroutines and disk are
// what they were after the warm-up, within the bounds of soakLimits. The last
// quarter is without kills: processes have to get old to show a leak.
//
// SOAK is how long it runs, default 20s; see `make soak`.
func TestSoak(t *testing.T) {
	duration := defaultSoak
	if text := os.Getenv("SOAK"); text != "" {
		duration = must(time.ParseDuration(text))(t)
	}
	_, env := newEnv(t)
	ctx, cancel := context.WithTimeout(context.Background(), duration+10*time.Minute)
	defer cancel()
	s := newSoak(ctx, t, env)
	t.Logf("soak for %v: a site is killed every %v until three quarters are over", duration, s.every(duration))

	s.loadAll()
	s.cyclesUntil(ctx, duration/4, s.every(duration), true)
	baseline := s.quiesced(ctx)
	s.loadAll()
	s.cyclesUntil(ctx, duration*3/4, s.every(duration), true)
	s.cyclesUntil(ctx, duration, s.every(duration), false)
	ending := s.quiesced(ctx)

	s.table(baseline, ending)
	sameOnBoth(ctx, t, s.pair, s.volumes)
	for _, site := range s.sites() {
		s.chains.verifyAll(ctx, t, site, 0)
	}
	t.Logf("%d blocks written, %d kills; %v", s.chains.writtenBytes()/chainBlock, s.kills, s.did)
	s.finishThinned(ctx)
	want := []string{"snapshot", "clone", "rewind", "fork"}
	if duration >= soakAgedForks {
		want = append(want, "fork that expired")
	}
	for _, name := range want {
		if s.did[name] == 0 {
			t.Errorf("no %s was made", name)
		}
	}
	for _, problem := range soakProblems(baseline, ending) {
		t.Error(problem)
	}
}

// newSoak starts the sites and makes the volumes.
func newSoak(ctx context.Context, t *testing.T, env *harness.Env) *soak {
	s := &soak{t: t, env: env, pair: must(env.StartPair(ctx))(t), did: map[string]int{}, began: time.Now()}
	parameters := maps.Clone(replicated)
	parameters["checkpointInterval"], parameters["journalSize"] = "500ms", fmt.Sprint(soakJournal)
	s.volumes = newBlockVolumes(ctx, t, s.pair.A, soakVolumes, soakBytes, parameters)
	s.chains = newChains(s.volumes, soakChains)
	s.chains.pace = 5 * time.Millisecond
	v := must(s.pair.A.CreateVolume(ctx, harness.VolumeSpec{Name: "fio", SizeBytes: soakFioBytes, Parameters: parameters}))(t)
	check(t, s.pair.A.Publish(ctx, v))
	s.volumes = append(s.volumes, v)
	s.thinned = newThinned(ctx, t, env)
	return s
}

// sites are the two of the pair, which are killed.
func (s *soak) sites() []*harness.Site { return []*harness.Site{s.pair.A, s.pair.B} }

// allSites are those of which samples are taken.
func (s *soak) allSites() []*harness.Site { return append(s.sites(), s.thinned.site) }

func (s *soak) every(duration time.Duration) time.Duration {
	return min(soakKillEvery, duration/soakCycles)
}

// load starts what writes, and rest ends it in order.
func (s *soak) load() {
	s.chains.start(s.t)
	s.fio = startFio(s.t, s.env, s.volumes[soakVolumes].Target)
}

// loadAll is load for the third site, too.
func (s *soak) loadAll() {
	s.load()
	s.thinned.chains.start(s.t)
}

func (s *soak) rest() {
	s.t.Helper()
	s.chains.stop()
	check(s.t, s.chains.err())
	check(s.t, s.fio.stop())
}

// cyclesUntil goes through cycles until a time after the beginning.
func (s *soak) cyclesUntil(ctx context.Context, end, every time.Duration, kill bool) {
	s.t.Helper()
	for time.Since(s.began) < end {
		next := time.Now().Add(every)
		s.cycle++
		s.takeSnapshot(ctx)
		s.verify(ctx)
		s.tendForks(ctx)
		switch s.cycle % 3 {
		case 1:
			s.clone(ctx)
		case 2:
			s.rewind(ctx)
		}
		if kill {
			s.kill(ctx)
		}
		for time.Now().Before(next) && time.Since(s.began) < end {
			s.sample(ctx)
			settle(min(time.Until(next), max(end/soakSamples, time.Second)))
		}
	}
}

// quiesced ends the load and lets go of all snapshots and forks, waits until the journals
// are within their budgets, and samples. The load does not run when it returns.
func (s *soak) quiesced(ctx context.Context) soakSample {
	s.t.Helper()
	s.rest()
	s.thinned.chains.stop()
	check(s.t, s.thinned.chains.err())
	s.deleteSnapshots(ctx, 0)
	s.discardForks(ctx)
	now := time.Now()
	for _, site := range s.allSites() {
		check(s.t, site.AwaitPoint(ctx, groupName, now))
	}
	for _, site := range s.sites() {
		s.awaitDestage(ctx, site, soakJournal)
	}
	s.awaitDestage(ctx, s.thinned.site, soakThinJournal)
	return s.sample(ctx)
}
