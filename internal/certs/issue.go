package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"time"
)

// DefaultLeafValidity is how long a site's certificate is valid unless the
// request says otherwise.
const DefaultLeafValidity = 365 * 24 * time.Hour

// DefaultRoleValidity is the same for the certificate of a role, which is
// renewed by itself.
const DefaultRoleValidity = 90 * 24 * time.Hour

// Request describes the certificate of one site, or of a role there.
type Request struct {
	// Site is the site's name, see ValidateSite.
	Site string
	// Role makes the certificate one for inside the site's cluster. Empty: one
	// between sites.
	Role Role
	// Hosts are IP addresses and DNS names at which the site is reached. May be
	// empty: peers verify the site's name only.
	Hosts []string
	// Now is the moment of issue.
	Now time.Time
	// Validity counts from Now; 0 means DefaultLeafValidity, or
	// DefaultRoleValidity with a role, below 0 is ErrValidity. A leaf never outlives its authority, so the end may come
	// sooner.
	Validity time.Duration
}

// Identity is the certificate of a site or role with its key and its authority.
type Identity struct {
	Cert      *x509.Certificate
	Authority *x509.Certificate
	key       crypto.Signer
}

// Issue makes a key and a certificate for both ends of a connection, in memory.
// It returns ErrSiteName, ErrRole, ErrHost or ErrValidity for a bad request, and
// ErrExpired when the authority itself has ended at the moment of issue.
func (a *Authority) Issue(req Request) (*Identity, error) {
	if err := ValidateSite(req.Site); err != nil {
		return nil, err
	}
	name, uri := req.Site, siteURI(req.Site)
	if req.Role != "" {
		if err := req.Role.Validate(); err != nil {
			return nil, err
		}
		name, uri = string(req.Role)+"."+req.Site, roleURI(req.Site, req.Role)
	}
	ips, names, err := splitHosts(req.Hosts)
	if err != nil {
		return nil, err
	}
	if req.Validity < 0 {
		return nil, fmt.Errorf("issue certificate of site %s: %w: %v", req.Site, ErrValidity, req.Validity)
	}
	if req.Now.After(a.Cert.NotAfter) {
		return nil, fmt.Errorf("issue certificate of site %s: authority: %w", req.Site, ErrExpired)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key of site %s: %w", req.Site, err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             req.Now.Add(-clockSkew),
		NotAfter:              a.leafEnd(req),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:                  []*url.URL{uri},
		IPAddresses:           ips,
		DNSNames:              names,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Cert, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of site %s: %w", req.Site, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse certificate of site %s: %w", req.Site, err)
	}
	return &Identity{Cert: cert, Authority: a.Cert, key: key}, nil
}

func (a *Authority) leafEnd(req Request) time.Time {
	validity := req.Validity
	if validity == 0 {
		validity = DefaultLeafValidity
		if req.Role != "" {
			validity = DefaultRoleValidity
		}
	}
	end := req.Now.Add(validity)
	if end.After(a.Cert.NotAfter) {
		return a.Cert.NotAfter
	}
	return end
}

// Save writes ca.crt, tls.crt and tls.key to dir, which is created with mode
// 0700 when missing. Unless force is set, it writes nothing and returns
// ErrExists when any of them is there. All files are durable on return.
func (id *Identity) Save(dir string, force bool) error {
	if err := prepareDir(dir, force, AuthorityFile, CertFile, KeyFile); err != nil {
		return err
	}
	writes, err := id.writes(dir)
	if err != nil {
		return err
	}
	for _, w := range writes {
		if err := w.do(dir); err != nil {
			return err
		}
	}
	return nil
}

// fileWrite is one file to be replaced.
type fileWrite struct {
	name string
	data []byte
	mode fs.FileMode
}

func (w fileWrite) do(dir string) error { return writeFile(filepath.Join(dir, w.name), w.data, w.mode) }

// writes is what Save does to a directory, in order. Each state in between has a key for its
// certificate, also if nothing follows because the process was killed: where a pair is
// replaced, the old key stays behind the new one until the certificate is there.
func (id *Identity) writes(dir string) ([]fileWrite, error) {
	files, err := id.Files()
	if err != nil {
		return nil, err
	}
	writes := []fileWrite{
		{AuthorityFile, files[AuthorityFile], certMode},
		{KeyFile, files[KeyFile], keyMode},
		{CertFile, files[CertFile], certMode},
	}
	if _, old, err := readPair(dir); err == nil {
		writes[1].data = slices.Concat(files[KeyFile], old)
		writes = append(writes, fileWrite{KeyFile, files[KeyFile], keyMode})
	}
	return writes, nil
}
