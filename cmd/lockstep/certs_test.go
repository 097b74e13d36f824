package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/certs"
)

// expiry returns the end of the only leaf that a certs command printed as JSON.
func expiry(t *testing.T, printed string) time.Time {
	t.Helper()
	var document certsDocument
	if err := json.Unmarshal([]byte(printed), &document); err != nil {
		t.Fatal(err)
	}
	for _, c := range document.Certificates {
		if c.Authority {
			continue
		}
		end, err := time.Parse(time.RFC3339, c.NotAfter)
		if err != nil {
			t.Fatal(err)
		}
		return end
	}
	t.Fatalf("no leaf in %s", printed)
	return time.Time{}
}

func TestCertsInOneStep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	s := newShell("")
	table := s.must(t, "certs", "--out", dir, "--site", "a=127.0.0.1", "--site", "b=127.0.0.1,b.example")
	for _, want := range []string{"authority", "127.0.0.1,b.example", "2036-11-22T10:42:00Z", "2027-11-22T10:42:00Z", "365d"} {
		if !strings.Contains(table, want) {
			t.Errorf("%q is missing in\n%s", want, table)
		}
	}
	for _, name := range []string{"a", "b"} {
		if site, err := certs.LocalSite(filepath.Join(dir, name)); err != nil || site != name {
			t.Errorf("site %s: %q, %v", name, site, err)
		}
		if _, err := os.Stat(filepath.Join(dir, name, certs.AuthorityKeyFile)); !os.IsNotExist(err) {
			t.Errorf("site %s holds the authority's key: %v", name, err)
		}
	}
	// A third site joins under the same authority.
	s.must(t, "certs", "--out", dir, "--site", "c")
	a, c := read(t, dir, "a/ca.crt"), read(t, dir, "c/ca.crt")
	if a != c {
		t.Error("a later site has another authority")
	}
	if got := s.must(t, "certs", "show", dir, filepath.Join(dir, "a"), "-o", "name"); got != dir+"/ca.crt\n"+dir+"/a/ca.crt\n"+dir+"/a/tls.crt\n" {
		t.Errorf("show names %q", got)
	}
}

func read(t *testing.T, elements ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCertsNeverOverwrites(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	s := newShell("")
	s.must(t, "certs", "--out", dir, "--site", "b")
	authority, leaf := read(t, dir, "ca.crt"), read(t, dir, "b/tls.crt")

	// Site a is new and comes first; b stops the whole command before a is written.
	got := s.run(t, "certs", "--out", dir, "--site", "a", "--site", "b")
	if got.exit != exitFailed || !strings.Contains(got.stderr, dir+"/b/ca.crt: file exists: pass --force") {
		t.Errorf("exit %d: %q", got.exit, got.stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); !os.IsNotExist(err) {
		t.Errorf("a refused command wrote site a: %v", err)
	}
	for _, args := range [][]string{{"certs", "init", "--dir", dir}, {"certs", "issue", "--dir", dir, "--site", "b"}} {
		if got := s.run(t, args...); got.exit != exitFailed || !strings.Contains(got.stderr, "--force") {
			t.Errorf("%v: exit %d: %q", args, got.exit, got.stderr)
		}
	}
	if read(t, dir, "ca.crt") != authority || read(t, dir, "b/tls.crt") != leaf {
		t.Fatal("a refused command changed files")
	}
	s.must(t, "certs", "--out", dir, "--site", "b", "--force")
	if read(t, dir, "b/tls.crt") == leaf {
		t.Error("--force did not renew the site")
	}
	if read(t, dir, "ca.crt") != authority {
		t.Error("--force replaced the authority")
	}
	// Half an authority is never completed by a new one.
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if got := s.run(t, "certs", "--out", dir, "--site", "d"); got.exit != exitFailed || read(t, dir, "ca.crt") != authority {
		t.Errorf("without ca.key: exit %d: %q", got.exit, got.stderr)
	}
}

func TestCertsInitAndIssue(t *testing.T) {
	dir := t.TempDir()
	s := newShell("")
	s.must(t, "certs", "init", "--dir", dir)
	out := filepath.Join(dir, "elsewhere")
	end := expiry(t, s.must(t, "certs", "issue", "--dir", dir, "--site", "a", "--host", "10.0.0.1", "--host", "a.example", "--out", out, "--days", "7", "-o", "json"))
	if want := epoch.Add(7 * day); !end.Equal(want) {
		t.Errorf("ends %v, want %v", end, want)
	}
	if site, err := certs.LocalSite(out); err != nil || site != "a" {
		t.Errorf("site %q, %v", site, err)
	}
	// A week is less than the table's warning.
	if got := s.must(t, "certs", "show", out); !strings.Contains(got, " 7d ") {
		t.Errorf("show says\n%s", got)
	}
	infos, err := certs.Inspect(out)
	if err != nil {
		t.Fatal(err)
	}
	p := &page{now: infos[1].NotAfter.Add(time.Second)}
	p.showCertificates(infos)
	if !strings.Contains(p.buffer.String(), "EXPIRED") {
		t.Errorf("an ended certificate is shown as\n%s", p.buffer.String())
	}
}

func TestCertsRefuses(t *testing.T) {
	dir := t.TempDir()
	s := newShell("")
	s.must(t, "certs", "init", "--dir", dir+"/ca")
	cases := []struct{ args, says string }{
		{"certs", "a command is missing"},
		{"certs --site a", "--out is missing"},
		{"certs --out DIR/x", "--site is missing"},
		{"certs --out DIR/x --site ../a", "invalid site name"},
		{"certs --out DIR/x --site a=h:1", "invalid host"},
		{"certs --out DIR/x --site a=", "invalid host"},
		{"certs --out DIR/x --site a=h --site a=i", "given twice"},
		{"certs init", "--dir is missing"},
		{"certs issue --dir DIR/ca", "--site is missing"},
		{"certs issue --dir DIR/ca --site A", "invalid site name"},
		{"certs issue --dir DIR/ca --site a --host h:1", "invalid host"},
		{"certs issue --dir DIR/ca --site a --days 0", "want 1 to 3650"},
		{"certs issue --dir DIR/x --site a", "make one with `lockstep certs init"},
		{"certs show", "DIR is missing"},
		{"certs show DIR/x", "holds no certificates"},
	}
	for _, c := range cases {
		t.Run(c.args, func(t *testing.T) {
			got := s.run(t, strings.Fields(strings.ReplaceAll(c.args, "DIR", dir))...)
			if got.exit != exitUsage || !strings.Contains(got.stderr, c.says) {
				t.Errorf("exit %d: %q, want %q in it", got.exit, got.stderr, c.says)
			}
		})
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("refused commands left %v", entries)
	}
}
