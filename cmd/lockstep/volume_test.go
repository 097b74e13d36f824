package main

import (
	"errors"
	"os"
	"path/filepath"
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

// TestVolumeAdoptFollowsNoLink: the site moves what it is given, and a link would be all
// that moves.
func TestVolumeAdoptFollowsNoLink(t *testing.T) {
	s, root := newShell(newFakeSite().serve(t)), t.TempDir()
	dir, link := filepath.Join(root, "disk"), filepath.Join(root, "link")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Symlink("disk", link)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{link, link + "/"} {
		if got := s.run(t, "volume", "adopt", name); got.exit != exitUsage || !strings.Contains(got.stderr, dir) {
			t.Errorf("adopt %s: exit %d: %s", name, got.exit, got.stderr)
		}
	}
	s.must(t, "volume", "adopt", dir)
	// Interrupted after the move: the site knows it by the path that it had.
	s.must(t, "volume", "adopt", filepath.Join(root, "gone"))
}
