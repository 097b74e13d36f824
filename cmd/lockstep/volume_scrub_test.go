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
