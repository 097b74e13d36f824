package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"net"
	"path/filepath"
	"time"
)

// Info is what a person wants to know of a certificate.
type Info struct {
	// File is the path it was read from.
	File string
	// Authority is true for a certificate that may sign others.
	Authority bool
	// Site is the site's name; empty for an authority and for a certificate
	// that names none.
	Site string
	// Role is empty for a certificate between sites.
	Role Role
	// Hosts are its IP addresses and DNS names.
	Hosts []string
	// Fingerprint is the SHA-256 of the DER form, 64 lower-case hex digits.
	Fingerprint string
	NotBefore   time.Time
	NotAfter    time.Time
}

// Inspect describes the certificates of one directory, authorities first. It
// verifies nothing and needs no key. A missing tls.crt is no error (an
// authority directory has none); a missing ca.crt is fs.ErrNotExist.
func Inspect(dir string) ([]Info, error) {
	path := filepath.Join(dir, AuthorityFile)
	authorities, err := readBundle(path)
	if err != nil {
		return nil, err
	}
	var infos []Info
	for _, cert := range authorities {
		infos = append(infos, describe(path, cert))
	}
	if CheckAbsent(dir, CertFile) == nil {
		return infos, nil
	}
	path = filepath.Join(dir, CertFile)
	leaf, err := readCert(path)
	if err != nil {
		return nil, err
	}
	return append(infos, describe(path, leaf)), nil
}

func describe(path string, cert *x509.Certificate) Info {
	info := Info{
		File:        path,
		Authority:   cert.IsCA,
		Fingerprint: Fingerprint(cert),
		NotBefore:   cert.NotBefore,
		NotAfter:    cert.NotAfter,
		Hosts:       hosts(cert.IPAddresses, cert.DNSNames),
	}
	if site, role, err := ownerOf(cert); err == nil {
		info.Site, info.Role = site, role
	}
	return info
}

func hosts(ips []net.IP, names []string) []string {
	all := make([]string, 0, len(ips)+len(names))
	for _, ip := range ips {
		all = append(all, ip.String())
	}
	return append(all, names...)
}

// Fingerprint returns the SHA-256 of the certificate's DER form as 64
// lower-case hex digits, as `openssl x509 -fingerprint -sha256` prints it, apart
// from case and colons.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}
