package certs

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// URI form of a site's identity: lockstep://site/NAME.
const (
	siteScheme = "lockstep"
	siteHost   = "site"
)

// siteName is a DNS label: it is safe as a directory name, as a metric label
// and in a URI without escapes.
var siteName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ValidateSite returns ErrSiteName unless name is a DNS label: 1 to 63
// lower-case letters, digits and hyphens, with no hyphen at either end.
func ValidateSite(name string) error {
	if !siteName.MatchString(name) {
		return fmt.Errorf("%w %q: want 1 to 63 lower-case letters, digits or hyphens, no hyphen at either end", ErrSiteName, name)
	}
	return nil
}

// SiteFromCert returns the name of the site that cert was issued to. It does
// not verify the certificate. A certificate with no site URI, with several, or
// with a malformed one is ErrNoSite: an identity is never guessed.
func SiteFromCert(cert *x509.Certificate) (string, error) {
	var found []string
	for _, uri := range cert.URIs {
		if uri.Scheme != siteScheme {
			continue
		}
		name := strings.TrimPrefix(uri.Path, "/")
		if *uri != *siteURI(name) || ValidateSite(name) != nil {
			return "", fmt.Errorf("%w: malformed URI %q", ErrNoSite, uri)
		}
		found = append(found, name)
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%w: %d site URIs, want one", ErrNoSite, len(found))
	}
	return found[0], nil
}

func siteURI(name string) *url.URL {
	return &url.URL{Scheme: siteScheme, Host: siteHost, Path: "/" + name}
}
