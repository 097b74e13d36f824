package certs

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"
)

// Role is what a process of a site is: the second half of an identity inside a
// cluster. It is a DNS label.
type Role string

// The roles that speak to each other over the network.
const (
	RoleController Role = "controller"
	RoleEngine     Role = "engine"
	RoleGateway    Role = "gateway"
)

// Validate returns ErrRole unless the role is a DNS label, see ValidateSite.
func (r Role) Validate() error {
	if !siteName.MatchString(string(r)) {
		return fmt.Errorf("%w %q: want 1 to 63 lower-case letters, digits or hyphens, no hyphen at either end", ErrRole, string(r))
	}
	return nil
}

// RoleFromCert returns the site and the role that cert was issued to. It does
// not verify the certificate. A certificate with no role URI, with several
// URIs of ours, or with a malformed one is ErrNoRole: an identity is never
// guessed. A certificate between sites has none, as one with a role is none
// between sites.
func RoleFromCert(cert *x509.Certificate) (site string, role Role, err error) {
	found := 0
	for _, uri := range cert.URIs {
		if uri.Scheme != siteScheme {
			continue
		}
		parts := strings.Split(strings.TrimPrefix(uri.Path, "/"), "/")
		if len(parts) != 3 || parts[1] != rolePart || *uri != *roleURI(parts[0], Role(parts[2])) ||
			ValidateSite(parts[0]) != nil || Role(parts[2]).Validate() != nil {
			return "", "", fmt.Errorf("%w: URI %q is not %s://%s/SITE/%s/ROLE", ErrNoRole, uri, siteScheme, siteHost, rolePart)
		}
		site, role = parts[0], Role(parts[2])
		found++
	}
	if found != 1 {
		return "", "", fmt.Errorf("%w: %d role URIs, want one", ErrNoRole, found)
	}
	return site, role, nil
}

// rolePart stands between site and role in a URI.
const rolePart = "role"

func roleURI(site string, role Role) *url.URL {
	return &url.URL{Scheme: siteScheme, Host: siteHost, Path: "/" + site + "/" + rolePart + "/" + string(role)}
}

// RequireRole returns a function that returns nil for a certificate of one of
// the roles at the site, and else ErrNoRole, ErrWrongSite or ErrWrongRole. It
// verifies nothing; it is for certificates of connections that a configuration
// of this package has verified.
func RequireRole(site string, roles ...Role) func(*x509.Certificate) error {
	return func(cert *x509.Certificate) error {
		found, role, err := RoleFromCert(cert)
		if err != nil {
			return err
		}
		if found != site {
			return fmt.Errorf("%w: want %s, found %s", ErrWrongSite, site, found)
		}
		for _, want := range roles {
			if role == want {
				return nil
			}
		}
		return fmt.Errorf("%w: want %s, found %s", ErrWrongRole, joinRoles(roles), role)
	}
}

func joinRoles(roles []Role) string {
	var text []string
	for _, r := range roles {
		text = append(text, string(r))
	}
	return strings.Join(text, " or ")
}
