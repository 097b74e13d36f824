package integration

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/loopback"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

const (
	// soakHistory thins to every tenth second what is a minute old, and to every
	// minute what is ten.
	soakHistory = "500ms:1m,10s:10m,1m:2h"
	// soakThinJournal is more than half of what is written in half an hour, so
	// that the points of its beginning are there at its end because the journal was
	// thinned and not because it is large.
	soakThinJournal = 1536 * mib
	// soakThins is how long a soak is that something must have been thinned in: a
	// store thins eight segments at a time, and not within ten minutes of being
	// opened.
	soakThins = 20 * time.Minute
)

// thinned is a third site, with a history that thins. It is not killed before
// the end, because a store that was opened thins nothing for ten minutes.
type thinned struct {
	site   *harness.Site
	chains *chains
	began  time.Time
}

func newThinned(ctx context.Context, t *testing.T, env *harness.Env) *thinned {
	t.Helper()
	metrics := must(loopback.Free())(t)
	site := must(env.StartSite(ctx, harness.SiteConfig{Name: "c", Metrics: metrics}))(t)
	volumes := newBlockVolumes(ctx, t, site, 1, soakBytes, map[string]string{
		"group": groupName, "checkpointInterval": "500ms", "history": soakHistory, "journalSize": fmt.Sprint(soakThinJournal),
	})
	c := newChains(volumes, soakChains)
	c.pace = 10 * time.Millisecond // 1.6 MB/s: a segment in 40 s
	return &thinned{site: site, chains: c, began: time.Now()}
}

// finishThinned kills the third site, and opens every point that is listed then: also those
// that leave their tier meanwhile, because nothing is dropped for ten minutes. After a long
// soak its first minutes must be among them, and thinned.
func (s *soak) finishThinned(ctx context.Context) {
	t, h := s.t, s.thinned
	t.Helper()
	replaced := must(metric(ctx, h.site, "lockstep_volume_thinning_replaced_bytes_total"))(t)
	written := must(metric(ctx, h.site, "lockstep_volume_thinning_written_bytes_total"))(t)
	check(t, h.site.Stop(syscall.SIGKILL))
	check(t, h.site.Start(ctx))
	points := must(h.site.Points(ctx, groupName))(t)
	if len(points) == 0 {
		t.Fatal("site c has no points")
	}
	for _, p := range points {
		if !s.verifyPast(ctx, h.site, h.chains, p.GetCheckpoint()) {
			t.Errorf("point %d of site c was listed and could not be opened", p.GetCheckpoint())
		}
	}
	oldest := points[0].GetTime().AsTime()
	t.Logf("site c: %d MiB written, %d MiB of segments thinned to %d MiB; %d points hold a prefix; the oldest is of %v after the beginning",
		h.chains.writtenBytes()/mib, replaced/mib, written/mib, len(points), oldest.Sub(h.began).Round(time.Second))
	if time.Since(h.began) < soakThins {
		return
	}
	if replaced == 0 || written > replaced/4 {
		t.Errorf("%d bytes of segments were thinned to %d", replaced, written)
	}
	if late := oldest.Sub(h.began); late > 2*time.Minute {
		t.Errorf("the oldest point is of %v after the beginning, want the first minutes", late)
	}
}
