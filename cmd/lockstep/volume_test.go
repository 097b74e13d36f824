package main

import (
	"strings"
	"testing"
)

// TestADeviceThatIsNotServedIsShown, with the reason, though its volume is well.
func TestADeviceThatIsNotServedIsShown(t *testing.T) {
	site := newFakeSite()
	s := newShell(site.serve(t))
	if out := s.must(t, "status"); strings.Contains(out, "NO DEVICE") {
		t.Errorf("no device is missing:\n%s", out)
	}
	site.unserved = "its device is not served yet, and I/O on it waits"
	for _, c := range []struct {
		args []string
		says []string
	}{
		{[]string{"status"}, []string{"NO DEVICE", "pgwal: its device is not served yet"}},
		{[]string{"status", "-o", "json"}, []string{`"deviceError": "its device is not served yet, and I/O on it waits"`, `"deviceError": ""`}},
	} {
		out := s.must(t, c.args...)
		for _, text := range c.says {
			if !strings.Contains(out, text) {
				t.Errorf("%v does not say %q:\n%s", c.args, text, out)
			}
		}
	}
}
