package main

import (
	"strings"
	"testing"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// TestPointsThatWereLeft are marked, and named by what they are chosen by.
func TestPointsThatWereLeft(t *testing.T) {
	site := newFakeSite()
	site.points[4].Left = []*adminv1.MemberPosition{
		{Volume: "v-0a1b", Position: &adminv1.Position{Timeline: 2, Seq: 256}}, {Volume: "v-2c3d", Position: &adminv1.Position{Timeline: 3, Seq: 257}},
	}
	s := newShell(site.serve(t))
	for _, step := range []struct {
		args string
		want []string
	}{
		{"point list shop", []string{"before-upgrade,snap-1 (left behind)\n"}},
		{"point list shop -o wide", []string{"LEFT AT", "0000000000000002/0000000000000256,0000000000000003/0000000000000257", "(left behind)"}},
		{"point list shop -o json", []string{`"volume": "v-2c3d"`, `"position": "0000000000000003/0000000000000257"`, `"left": []`}},
		{"point list shop -o name", []string{"1240\n", "\npin:before-upgrade\n1235\n"}},
		{"group describe shop", []string{"before-upgrade,snap-1 (left behind)\n"}},
	} {
		got := s.must(t, strings.Fields(step.args)...)
		for _, text := range step.want {
			if !strings.Contains(got, text) {
				t.Errorf("%s: no %q in:\n%s", step.args, text, got)
			}
		}
	}
}
