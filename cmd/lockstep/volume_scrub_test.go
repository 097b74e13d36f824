package main

import (
	"strings"
	"testing"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// damagedPlaces are what a scrub finds in these tests.
func damagedPlaces() []*adminv1.Damage {
	return []*adminv1.Damage{
		{File: "journal/0000000000000003.seg", Offset: 4160, What: "payload", Wanted: "crc 00000001", Found: "crc 00000002", Reason: "it has left the peer's journal"},
		{File: "base.img", Offset: 8192, What: "sector", Wanted: "crc 00000003", Found: "crc 00000004", Reason: "it is damaged at the peer, too"},
	}
}

func TestScrubOfASoundVolume(t *testing.T) {
	s := newShell(newFakeSite().serve(t))
	if out := s.must(t, "volume", "scrub", "pgwal"); !strings.Contains(out, "sound") {
		t.Errorf("printed %q", out)
	}
}

// TestScrubNamesWhatIsDamaged: each place with what was wanted and found, and the exit
// status says that something is left.
func TestScrubNamesWhatIsDamaged(t *testing.T) {
	site := newFakeSite()
	s := newShell(site.serve(t))
	for _, c := range []struct {
		args  []string
		left  int
		says  []string
		found int
	}{
		{[]string{"volume", "scrub", "pgwal"}, exitFailed, []string{"DAMAGED", "offset 4160 of journal/0000000000000003.seg: wanted crc 00000001, found crc 00000002",
			"not repaired: it has left the peer's journal", "offset 8192 of base.img", "--repair"}, 2},
		{[]string{"volume", "scrub", "pgwal", "--repair"}, exitFailed, []string{"repaired with site b: payload at offset 4160", "damaged: sector at offset 8192"}, 2},
		{[]string{"volume", "scrub", "pgwal", "--repair", "-o", "json"}, exitOK, []string{`"damaged": []`, `"peer": "b"`, `"file": "journal/0000000000000003.seg"`}, 1},
	} {
		site.damaged = damagedPlaces()[:c.found]
		got := s.run(t, c.args...)
		if got.exit != c.left {
			t.Errorf("%v ends with %d, want %d: %s", c.args, got.exit, c.left, got.stderr)
		}
		for _, text := range c.says {
			if !strings.Contains(got.stdout, text) {
				t.Errorf("%v does not say %q:\n%s", c.args, text, got.stdout)
			}
		}
	}
}

func TestScrubOfAnUnknownVolume(t *testing.T) {
	s := newShell(newFakeSite().serve(t))
	if got := s.run(t, "volume", "scrub", "nobody"); got.exit != exitFailed || !strings.Contains(got.stderr, "no volume") {
		t.Errorf("ends with %d and says %q", got.exit, got.stderr)
	}
}

// TestPluginScrubs: a cluster's controller is asked for the volume of a claim, however it
// is named, and the answer names the claim.
func TestPluginScrubs(t *testing.T) {
	p := newPlugin(t)
	p.site.claims, p.site.damaged = p.users, damagedPlaces()
	for _, name := range []string{"pgwal", p.users + "/pgwal", "pvc:pgwal", "pvc-1"} {
		got := p.run(t, "volume", "scrub", name)
		if got.exit != exitFailed || !strings.Contains(got.stdout, p.users+"/pgwal (v-2c3d)") || !strings.Contains(got.stdout, "DAMAGED") ||
			!strings.Contains(got.stderr, "volume "+p.users+"/pgwal is damaged in 2 places") {
			t.Errorf("%s: exit %d:\n%s%s", name, got.exit, got.stdout, got.stderr)
		}
	}
	if got := p.run(t, "volume", "scrub", "pgwal", "-n", "other"); got.exit != exitFailed || !strings.Contains(got.stderr, `no volume "other/pgwal"`) {
		t.Errorf("-n: exit %d: %s", got.exit, got.stderr)
	}
	if got := p.run(t, "volume", "scrub", "a/b/c"); got.exit != exitUsage || !strings.Contains(got.stderr, "NAMESPACE/CLAIM") {
		t.Errorf("a/b/c: exit %d: %s", got.exit, got.stderr)
	}
	// What a cluster has no use for is not there.
	for _, verb := range []string{"adopt", "reopen"} {
		if got := p.run(t, "volume", verb, "x"); got.exit != exitUsage || !strings.Contains(got.stderr, "unknown command") {
			t.Errorf("%s: exit %d: %s", verb, got.exit, got.stderr)
		}
	}
}

// TestScrubIsNotWaitedForForEver where that is asked for.
func TestScrubIsNotWaitedForForEver(t *testing.T) {
	site := newFakeSite()
	site.hang = make(chan struct{})
	s := newShell(site.serve(t))
	defer close(site.hang)
	if got := s.run(t, "volume", "scrub", "pgwal", "--timeout", "50ms"); got.exit != exitFailed || !strings.Contains(got.stderr, "did not answer within 50ms") {
		t.Errorf("exit %d: %s", got.exit, got.stderr)
	}
}

func TestScrubText(t *testing.T) {
	for want, p := range map[string]*adminv1.ScrubProgress{
		"scrubbing":                       nil,
		"waiting for the volume's engine": {Waiting: true},
		"scrubbing: 512 MiB of 1.0 GiB, 2 places damaged": {ReadBytes: 1 << 29, TotalBytes: 1 << 30, Damaged: 2},
		"asking for what is damaged, 1 places damaged":    {Repairing: true, Damaged: 1},
	} {
		if got := scrubText(p); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
