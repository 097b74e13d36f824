package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"path/filepath"
	"time"
)

const (
	// AuthorityYears is how long an authority is valid.
	AuthorityYears = 10

	// clockSkew is how far back the validity of a new certificate starts, so
	// that a site whose clock runs late accepts it at once.
	clockSkew = time.Hour
)

// Authority signs the certificates of sites, or of the roles of one site. It is
// safe for concurrent use.
type Authority struct {
	// Cert is the authority's own certificate.
	Cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority makes an authority in memory, valid for AuthorityYears from now.
// Nothing is durable until Save.
func NewAuthority(now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate authority key: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "lockstep authority"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.AddDate(AuthorityYears, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		// Sites only: an authority never signs another authority.
		MaxPathLenZero: true,
		KeyUsage:       x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse authority: %w", err)
	}
	return &Authority{Cert: cert, key: key}, nil
}

// Save writes ca.crt and ca.key to dir, which is created with mode 0700 when
// missing. Unless force is set, it writes nothing and returns ErrExists when
// either file is there. Both files are durable on return.
func (a *Authority) Save(dir string, force bool) error {
	if err := prepareDir(dir, force, AuthorityFile, AuthorityKeyFile); err != nil {
		return err
	}
	files, err := a.Files()
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, AuthorityKeyFile), files[AuthorityKeyFile], keyMode); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, AuthorityFile), files[AuthorityFile], certMode)
}

// LoadAuthority reads the authority that Save wrote to dir. A missing file is
// fs.ErrNotExist; a certificate that may not sign is ErrNotAuthority.
func LoadAuthority(dir string) (*Authority, error) {
	files := make(map[string][]byte)
	for _, name := range []string{AuthorityFile, AuthorityKeyFile} {
		data, err := readFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		files[name] = data
	}
	authority, err := AuthorityFromFiles(files)
	if err != nil {
		return nil, fmt.Errorf("load authority %s: %w", dir, err)
	}
	return authority, nil
}
