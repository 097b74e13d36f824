package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRoleFromCert(t *testing.T) {
	cases := map[string]struct {
		uris []string
		want string // site and role; empty: ErrNoRole
	}{
		"one":               {[]string{"lockstep://site/a/role/engine"}, "a engine"},
		"beside a stranger": {[]string{"spiffe://x/y", "lockstep://site/b/role/x-1"}, "b x-1"},
		"none":              {nil, ""},
		"of a site":         {[]string{"lockstep://site/a"}, ""},
		"site and role":     {[]string{"lockstep://site/a", "lockstep://site/a/role/engine"}, ""},
		"two roles":         {[]string{"lockstep://site/a/role/engine", "lockstep://site/a/role/gateway"}, ""},
		"no role":           {[]string{"lockstep://site/a/role/"}, ""},
		"bad role":          {[]string{"lockstep://site/a/role/Engine"}, ""},
		"bad site":          {[]string{"lockstep://site/A/role/engine"}, ""},
		"other word":        {[]string{"lockstep://site/a/node/engine"}, ""},
		"longer":            {[]string{"lockstep://site/a/role/engine/x"}, ""},
		"other host":        {[]string{"lockstep://node/a/role/engine"}, ""},
		"query":             {[]string{"lockstep://site/a/role/engine?x"}, ""},
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
			site, role, err := RoleFromCert(cert)
			if got := strings.TrimSpace(site + " " + string(role)); got != c.want || (c.want == "") != errors.Is(err, ErrNoRole) {
				t.Fatalf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

// issueRole saves a role's certificate and returns its directory.
func (in *installation) issueRole(t *testing.T, site string, role Role) string {
	t.Helper()
	id, err := in.authority.Issue(Request{Site: site, Role: role, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(in.root, site, string(role))
	if err := id.Save(dir, true); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestRoleHandshakes is who may speak to whom inside a cluster.
func TestRoleHandshakes(t *testing.T) {
	in, stranger := newInstallation(t), newInstallation(t)
	dirs := map[string]string{"site a": in.issue(t, Request{Site: "a"}), "strange gateway": stranger.issueRole(t, "a", RoleGateway)}
	for _, site := range []string{"a", "b"} {
		for _, role := range []Role{RoleController, RoleEngine, RoleGateway} {
			dirs[string(role)+" "+site] = in.issueRole(t, site, role)
		}
	}
	config := func(config *tls.Config, err error) *tls.Config {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	engine := config(RoleServerTLS(dirs["engine a"], RoleController, RoleGateway))
	for client, want := range map[string]error{
		"controller a": nil, "gateway a": nil,
		"engine a": ErrWrongRole, "controller b": ErrWrongSite, "gateway b": ErrWrongSite, "strange gateway": x509.UnknownAuthorityError{},
	} {
		t.Run("engine accepts "+client, func(t *testing.T) {
			h := shakeHands(t, engine, config(RoleClientTLS(dirs[client], RoleEngine)))
			var unknown x509.UnknownAuthorityError
			switch {
			case want == nil:
				// What shakeHands asks last is a site's name, which these do not
				// carry.
				if !errors.Is(h.serverErr, ErrNoSite) || h.clientErr != nil {
					t.Errorf("server: %v, client: %v; want a handshake", h.serverErr, h.clientErr)
				}
			case errors.As(want, &unknown):
				if !errors.As(h.serverErr, &unknown) && !errors.As(h.clientErr, &unknown) {
					t.Errorf("server: %v, client: %v; want an unknown authority", h.serverErr, h.clientErr)
				}
			case !errors.Is(h.serverErr, want) && !errors.Is(h.clientErr, want):
				t.Errorf("server: %v, client: %v; want %v", h.serverErr, h.clientErr, want)
			}
		})
	}
	t.Run("client wants another role", func(t *testing.T) {
		h := shakeHands(t, engine, config(RoleClientTLS(dirs["gateway a"], RoleController)))
		if !errors.Is(h.clientErr, ErrWrongRole) {
			t.Errorf("client: %v, want ErrWrongRole", h.clientErr)
		}
	})
	t.Run("site's certificate", func(t *testing.T) {
		h := shakeHands(t, engine, config(ClientTLS(dirs["site a"], "a")))
		if !errors.Is(h.serverErr, ErrNoRole) && !errors.Is(h.clientErr, ErrNoSite) {
			t.Errorf("server: %v, client: %v; want neither to accept the other", h.serverErr, h.clientErr)
		}
	})
}

// TestKindsDoNotMix: neither kind of configuration takes the other's files.
func TestKindsDoNotMix(t *testing.T) {
	in := newInstallation(t)
	site, role := in.issue(t, Request{Site: "a"}), in.issueRole(t, "a", RoleGateway)
	if _, err := ServerTLS(role); !errors.Is(err, ErrNoSite) {
		t.Errorf("site's server with a role's files: %v, want ErrNoSite", err)
	}
	if _, err := ClientTLS(role, "b"); !errors.Is(err, ErrNoSite) {
		t.Errorf("site's client with a role's files: %v, want ErrNoSite", err)
	}
	if _, err := LocalSite(role); !errors.Is(err, ErrNoSite) {
		t.Errorf("LocalSite of a role's files: %v, want ErrNoSite", err)
	}
	if _, err := RoleServerTLS(site, RoleEngine); !errors.Is(err, ErrNoRole) {
		t.Errorf("role's server with a site's files: %v, want ErrNoRole", err)
	}
	if _, _, err := LocalRole(site); !errors.Is(err, ErrNoRole) {
		t.Errorf("LocalRole of a site's files: %v, want ErrNoRole", err)
	}
	if name, found, err := LocalRole(role); name != "a" || found != RoleGateway || err != nil {
		t.Errorf("LocalRole is %s, %s, %v", name, found, err)
	}
	if _, err := RoleServerTLS(role); !errors.Is(err, ErrRole) {
		t.Errorf("server that accepts nobody: %v, want ErrRole", err)
	}
	if _, err := in.authority.Issue(Request{Site: "a", Role: "No", Now: time.Now()}); !errors.Is(err, ErrRole) {
		t.Errorf("bad role: %v, want ErrRole", err)
	}
	infos, err := Inspect(role)
	if err != nil || infos[1].Site != "a" || infos[1].Role != RoleGateway {
		t.Errorf("Inspect shows %+v, %v", infos, err)
	}
}

func TestRenewal(t *testing.T) {
	in := newInstallation(t)
	now := time.Now().Truncate(time.Second)
	id, err := in.authority.Issue(Request{Site: "a", Role: RoleEngine, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if want := now.Add(90 * 24 * time.Hour); !id.Cert.NotAfter.Equal(want) {
		t.Errorf("a role's certificate ends %v, want %v", id.Cert.NotAfter, want)
	}
	at := RenewAt(id.Cert)
	if early, late := now.Add(59*24*time.Hour), now.Add(60*24*time.Hour); at.Before(early) || at.After(late) {
		t.Errorf("renewed %v after its issue, want about 60 days", at.Sub(now))
	}
}

// TestFilesKeptElsewhere: an authority that was kept as bytes signs what the
// first one's sites accept.
func TestFilesKeptElsewhere(t *testing.T) {
	in, next := newInstallation(t), newInstallation(t)
	kept, err := in.authority.Files()
	if err != nil {
		t.Fatal(err)
	}
	again, err := AuthorityFromFiles(kept)
	if err != nil {
		t.Fatal(err)
	}
	id, err := again.Issue(Request{Site: "a", Role: RoleEngine, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Cert.CheckSignatureFrom(in.authority.Cert); err != nil {
		t.Error(err)
	}
	files, err := id.Files(next.authority.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, []string{AuthorityFile, CertFile, KeyFile}) {
		t.Errorf("an identity is %v", got)
	}
	if trusted, err := parseBundle(AuthorityFile, files[AuthorityFile]); err != nil || len(trusted) != 2 || !trusted[1].Equal(next.authority.Cert) {
		t.Errorf("want both authorities trusted, got %d, %v", len(trusted), err)
	}
	if cert, err := ParseCertificate(files[CertFile]); err != nil || !cert.Equal(id.Cert) {
		t.Errorf("got another certificate back, %v", err)
	}
	for _, name := range []string{AuthorityFile, AuthorityKeyFile} {
		less := maps.Clone(kept)
		delete(less, name)
		if _, err := AuthorityFromFiles(less); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	leaf := maps.Clone(kept)
	leaf[AuthorityFile] = files[CertFile]
	if _, err := AuthorityFromFiles(leaf); !errors.Is(err, ErrNotAuthority) {
		t.Errorf("leaf as authority: %v, want ErrNotAuthority", err)
	}
}

// mountSecret replaces a directory's files as the kubelet does for a Secret: a
// new directory behind a symbolic link that is renamed into place.
func mountSecret(t *testing.T, dir, version string, files map[string][]byte) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, version), 0o700))
	for name, data := range files {
		must(os.WriteFile(filepath.Join(dir, version, name), data, 0o600))
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); !errors.Is(err, fs.ErrExist) {
			must(err)
		}
	}
	must(os.Symlink(version, filepath.Join(dir, "..next")))
	must(os.Rename(filepath.Join(dir, "..next"), filepath.Join(dir, "..data")))
}

// TestReloadOfMountedSecret: what replaces a mounted Secret is used at the next
// handshake, unless it is another's.
func TestReloadOfMountedSecret(t *testing.T) {
	in := newInstallation(t)
	files := func(site string, role Role) (map[string][]byte, *x509.Certificate) {
		id, err := in.authority.Issue(Request{Site: site, Role: role, Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		f, err := id.Files()
		if err != nil {
			t.Fatal(err)
		}
		return f, id.Cert
	}
	dir := t.TempDir()
	first, _ := files("a", RoleEngine)
	mountSecret(t, dir, "1", first)
	config, err := RoleServerTLS(dir, RoleGateway)
	if err != nil {
		t.Fatal(err)
	}
	serves := func() *x509.Certificate {
		cert, err := config.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf
	}
	second, renewed := files("a", RoleEngine)
	mountSecret(t, dir, "2", second)
	if !serves().Equal(renewed) {
		t.Error("the renewed certificate is not used")
	}
	for i, other := range []struct {
		site string
		role Role
	}{{"a", RoleGateway}, {"b", RoleEngine}, {"a", ""}} {
		wrong, _ := files(other.site, other.role)
		mountSecret(t, dir, "wrong"+string(rune('0'+i)), wrong)
		if !serves().Equal(renewed) {
			t.Errorf("the certificate of %s %q is used", other.site, other.role)
		}
	}
}
