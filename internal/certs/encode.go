package certs

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// Files returns the authority as the files that Save writes, by name, for
// whoever keeps it elsewhere than in a directory.
func (a *Authority) Files() (map[string][]byte, error) {
	key, err := encodeKey(a.key)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{AuthorityFile: encodeCert(a.Cert), AuthorityKeyFile: key}, nil
}

// AuthorityFromFiles is the inverse of Files. Of several certificates the first
// is the authority. One that may not sign is ErrNotAuthority; a file that is
// missing or does not parse is an error that names it.
func AuthorityFromFiles(files map[string][]byte) (*Authority, error) {
	cert, err := parseBundle(AuthorityFile, files[AuthorityFile])
	if err != nil {
		return nil, err
	}
	key, err := parseKey(AuthorityKeyFile, files[AuthorityKeyFile])
	if err != nil {
		return nil, err
	}
	if !cert[0].IsCA || cert[0].KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, fmt.Errorf("read authority: %w", ErrNotAuthority)
	}
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || !public.Equal(cert[0].PublicKey) {
		return nil, fmt.Errorf("read authority: %s does not belong to %s", AuthorityKeyFile, AuthorityFile)
	}
	return &Authority{Cert: cert[0], key: key}, nil
}

// Files returns the identity as the files that Save writes, by name; they are
// the data of a Secret of type kubernetes.io/tls. trust are further authorities
// whose certificates the owner accepts, for the time in which one replaces the
// other.
func (id *Identity) Files(trust ...*x509.Certificate) (map[string][]byte, error) {
	key, err := encodeKey(id.key)
	if err != nil {
		return nil, err
	}
	authorities := encodeCert(id.Authority)
	for _, cert := range trust {
		authorities = append(authorities, encodeCert(cert)...)
	}
	return map[string][]byte{AuthorityFile: authorities, CertFile: encodeCert(id.Cert), KeyFile: key}, nil
}

// ParseCertificate returns the first certificate of a file's content, for
// whoever asks when to renew it.
func ParseCertificate(data []byte) (*x509.Certificate, error) {
	found, err := parseBundle(CertFile, data)
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// parseBundle reads every certificate of a PEM file; there is at least one.
func parseBundle(name string, rest []byte) ([]*x509.Certificate, error) {
	var found []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", name, err)
		}
		found = append(found, cert)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("parse %s: no PEM certificate in it", name)
	}
	return found, nil
}
