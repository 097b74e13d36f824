package main

import (
	"strings"
	"testing"
)

// TestTimelinesThatAreNotKnown: a member whose store cannot be asked is named, with
// why, the others are listed, and the command fails.
func TestTimelinesThatAreNotKnown(t *testing.T) {
	site := newFakeSite()
	site.asleep = "wait for the engine of volume v-2c3d: engine does not answer:\nno node has room for its pod"
	s := newShell(site.serve(t))
	for _, step := range []struct {
		form string
		want []string
	}{
		{"table", []string{"the present", "pgwal: not known: wait for the engine of volume v-2c3d: engine does not answer: no node has room for its pod"}},
		{"json", []string{`"error": ""`, `no node has room`, `"horizon": null`}},
		{"name", []string{"pgdata/"}},
	} {
		got := s.run(t, "timeline", "list", "shop", "-o", step.form)
		if got.exit != exitFailed || !strings.Contains(got.stderr, "the timelines of 1 of 2 members are not known") {
			t.Errorf("%s: exit %d: %s", step.form, got.exit, got.stderr)
		}
		for _, text := range step.want {
			if !strings.Contains(got.stdout, text) {
				t.Errorf("%s: no %q in:\n%s", step.form, text, got.stdout)
			}
		}
		if step.form == formName && strings.Contains(got.stdout, "pgwal") {
			t.Errorf("a member without timelines is listed:\n%s", got.stdout)
		}
	}
}

// TestTheHorizonIsShown in the wide form.
func TestTheHorizonIsShown(t *testing.T) {
	s := newShell(newFakeSite().serve(t))
	if got := s.must(t, "timeline", "list", "shop", "-o", "wide"); !strings.Contains(got, "HORIZON") || !strings.Contains(got, "0000000000000001/0000000000000100") {
		t.Errorf("no horizon in:\n%s", got)
	}
}

// TestPluginListsTimelines: a cluster's controller is asked, and members are named by
// their claims.
func TestPluginListsTimelines(t *testing.T) {
	p := newPlugin(t)
	p.site.claims = p.users
	got := p.must(t, "timeline", "list", "shop")
	if !strings.Contains(got, p.users+"/pgdata") || strings.Contains(got, "pvc-") || !strings.Contains(got, "history alone") {
		t.Errorf("listed:\n%s", got)
	}
	if got := p.must(t, "timeline", "list", p.users+"/shop", "-o", "name"); !strings.Contains(got, p.users+"/pgwal/0000000000000003\n") {
		t.Errorf("names:\n%s", got)
	}
	if got := p.must(t, "timeline", "list", "shop", "-o", "json"); !strings.Contains(got, `"claim": "`+p.users+`/pgdata"`) {
		t.Errorf("document:\n%s", got)
	}
}
