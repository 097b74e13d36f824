package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// installation is one authority and the directories of its sites.
type installation struct {
	root      string
	authority *Authority
}

func newInstallation(t *testing.T) *installation {
	t.Helper()
	authority, err := NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &installation{root: t.TempDir(), authority: authority}
}

// issue saves a certificate for req, completed with this moment when it names
// none, and returns its directory. It overwrites.
func (in *installation) issue(t *testing.T, req Request) string {
	t.Helper()
	if req.Now.IsZero() {
		req.Now = time.Now()
	}
	id, err := in.authority.Issue(req)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(in.root, req.Site)
	if err := id.Save(dir, true); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestValidateSite(t *testing.T) {
	cases := map[string]bool{
		"a": true, "site-1": true, "0": true, strings.Repeat("x", 63): true,
		"": false, "A": false, "-a": false, "a-": false, "a.b": false, "a/b": false,
		"..": false, "a b": false, "ä": false, "a\n": false, strings.Repeat("x", 64): false,
	}
	for name, ok := range cases {
		err := ValidateSite(name)
		if ok && err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if !ok && !errors.Is(err, ErrSiteName) {
			t.Errorf("%q: got %v, want ErrSiteName", name, err)
		}
	}
}

func TestSiteFromCert(t *testing.T) {
	cases := map[string]struct {
		uris []string
		want string // empty: ErrNoSite
	}{
		"one":               {[]string{"lockstep://site/a"}, "a"},
		"beside a stranger": {[]string{"spiffe://x/y", "lockstep://site/b"}, "b"},
		"none":              {nil, ""},
		"two":               {[]string{"lockstep://site/a", "lockstep://site/b"}, ""},
		"other host":        {[]string{"lockstep://node/a"}, ""},
		"other scheme":      {[]string{"https://site/a"}, ""},
		"bad name":          {[]string{"lockstep://site/A"}, ""},
		"path":              {[]string{"lockstep://site/a/b"}, ""},
		"query":             {[]string{"lockstep://site/a?x=1"}, ""},
		"user":              {[]string{"lockstep://u@site/a"}, ""},
		"good and bad":      {[]string{"lockstep://site/a", "lockstep://site/"}, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cert := &x509.Certificate{}
			for _, text := range c.uris {
				uri, err := url.Parse(text)
				if err != nil {
					t.Fatal(err)
				}
				cert.URIs = append(cert.URIs, uri)
			}
			got, err := SiteFromCert(cert)
			if got != c.want || (c.want == "") != errors.Is(err, ErrNoSite) {
				t.Fatalf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestIssueRefusesBadRequests(t *testing.T) {
	in := newInstallation(t)
	now := time.Now()
	cases := map[string]struct {
		req  Request
		want error
	}{
		"site":              {Request{Site: "../a", Now: now}, ErrSiteName},
		"host with port":    {Request{Site: "a", Hosts: []string{"h:1"}, Now: now}, ErrHost},
		"empty host":        {Request{Site: "a", Hosts: []string{""}, Now: now}, ErrHost},
		"host with space":   {Request{Site: "a", Hosts: []string{"h h"}, Now: now}, ErrHost},
		"negative lifetime": {Request{Site: "a", Now: now, Validity: -1}, ErrValidity},
		"authority ended":   {Request{Site: "a", Now: now.AddDate(AuthorityYears, 0, 1)}, ErrExpired},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := in.authority.Issue(c.req); !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestIssuedCertificate(t *testing.T) {
	in := newInstallation(t)
	now := time.Now().Truncate(time.Second)
	id, err := in.authority.Issue(Request{Site: "a", Hosts: []string{"127.0.0.1", "::1", "a.example"}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if key, ok := id.Cert.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		t.Errorf("key is %T, want ECDSA P-256", id.Cert.PublicKey)
	}
	if want := now.Add(DefaultLeafValidity); !id.Cert.NotAfter.Equal(want) {
		t.Errorf("leaf ends %v, want %v", id.Cert.NotAfter, want)
	}
	if id.Cert.IsCA {
		t.Error("a leaf must not be an authority")
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if !slices.Contains(id.Cert.ExtKeyUsage, usage) {
			t.Errorf("extended key usage %v is missing", usage)
		}
	}
	for _, host := range []string{"127.0.0.1", "::1", "a.example"} {
		if err := id.Cert.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	late, err := in.authority.Issue(Request{Site: "a", Now: now.AddDate(AuthorityYears, 0, -1)})
	if err != nil {
		t.Fatal(err)
	}
	if !late.Cert.NotAfter.Equal(in.authority.Cert.NotAfter) {
		t.Errorf("leaf ends %v, after its authority's %v", late.Cert.NotAfter, in.authority.Cert.NotAfter)
	}
}

func TestSaveNeverOverwritesUnlessForced(t *testing.T) {
	in := newInstallation(t)
	dir := in.issue(t, Request{Site: "a"})
	before, err := os.ReadFile(filepath.Join(dir, CertFile))
	if err != nil {
		t.Fatal(err)
	}
	// One file of the three is enough to refuse all of them.
	if err := os.Remove(filepath.Join(dir, KeyFile)); err != nil {
		t.Fatal(err)
	}
	id, err := in.authority.Issue(Request{Site: "a", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Save(dir, false); !errors.Is(err, ErrExists) {
		t.Fatalf("got %v, want ErrExists", err)
	}
	after, err := os.ReadFile(filepath.Join(dir, CertFile))
	if err != nil {
		t.Fatal(err)
	}
	if string(after) != string(before) {
		t.Error("a refused save changed tls.crt")
	}
	if err := CheckAbsent(dir, KeyFile); err != nil {
		t.Errorf("a refused save wrote the key: %v", err)
	}
	if err := id.Save(dir, true); err != nil {
		t.Fatal(err)
	}
	if site, err := LocalSite(dir); err != nil || site != "a" {
		t.Errorf("after a forced save: %q, %v", site, err)
	}
}

// TestSaveThatIsCutOff: a renewal that was killed between two of its files leaves what loads,
// and so does one over that; whoever starts with it need not wait for a person. What is
// left in the end has one key.
func TestSaveThatIsCutOff(t *testing.T) {
	in := newInstallation(t)
	dir := in.issue(t, Request{Site: "a"})
	for cut := 0; ; cut++ {
		id, err := in.authority.Issue(Request{Site: "a", Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		writes, err := id.writes(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range writes[:min(cut, len(writes))] {
			if err := w.do(dir); err != nil {
				t.Fatal(err)
			}
		}
		if site, err := LocalSite(dir); err != nil || site != "a" {
			t.Errorf("after %d of %d files: site %q, %v", cut, len(writes), site, err)
		}
		if cut < len(writes) {
			continue
		}
		keys, err := os.ReadFile(filepath.Join(dir, KeyFile))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(keys), "BEGIN PRIVATE KEY"); n != 1 {
			t.Errorf("%d keys are left, want 1", n)
		}
		return
	}
}

func TestModes(t *testing.T) {
	in := newInstallation(t)
	ca := filepath.Join(in.root, "ca")
	if err := in.authority.Save(ca, false); err != nil {
		t.Fatal(err)
	}
	site := in.issue(t, Request{Site: "a"})
	want := map[string]fs.FileMode{
		filepath.Join(ca, AuthorityKeyFile): 0o600,
		filepath.Join(ca, AuthorityFile):    0o644,
		filepath.Join(site, KeyFile):        0o600,
		filepath.Join(site, CertFile):       0o644,
	}
	for path, mode := range want {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), mode)
		}
	}
	entries, err := os.ReadDir(site)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 {
		t.Errorf("site directory holds %v, want three files and no leftovers", entries)
	}
}

func TestLoadAuthority(t *testing.T) {
	in := newInstallation(t)
	dir := filepath.Join(in.root, "ca")
	if _, err := LoadAuthority(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing authority: got %v, want fs.ErrNotExist", err)
	}
	if err := in.authority.Save(dir, false); err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	id, err := loaded.Issue(Request{Site: "a", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Cert.CheckSignatureFrom(in.authority.Cert); err != nil {
		t.Errorf("a reloaded authority signs otherwise: %v", err)
	}

	// A leaf in the authority's place may not sign.
	if err := writeFile(filepath.Join(dir, AuthorityFile), encodeCert(id.Cert), certMode); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAuthority(dir); !errors.Is(err, ErrNotAuthority) {
		t.Errorf("leaf as authority: got %v, want ErrNotAuthority", err)
	}
	// Another authority's certificate does not belong to this key.
	other := newInstallation(t)
	if err := writeFile(filepath.Join(dir, AuthorityFile), encodeCert(other.authority.Cert), certMode); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAuthority(dir); err == nil {
		t.Error("a key that does not belong to the certificate was accepted")
	}
}

func TestInspect(t *testing.T) {
	in := newInstallation(t)
	dir := in.issue(t, Request{Site: "a", Hosts: []string{"127.0.0.1", "a.example"}})
	infos, err := Inspect(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(infos) != 2 || !infos[0].Authority || infos[0].Site != "" {
		t.Fatalf("want the authority first, then the leaf: %+v", infos)
	}
	leaf := infos[1]
	if leaf.Authority || leaf.Site != "a" || !slices.Equal(leaf.Hosts, []string{"127.0.0.1", "a.example"}) {
		t.Errorf("leaf is described as %+v", leaf)
	}
	if len(leaf.Fingerprint) != 64 || leaf.Fingerprint == infos[0].Fingerprint {
		t.Errorf("fingerprint %q", leaf.Fingerprint)
	}
	if _, err := Inspect(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty directory: got %v, want fs.ErrNotExist", err)
	}
}
