package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"
)

// LocalSite returns the name of the site that the certificate in dir was
// issued to. A site checks it against its configured name before it starts.
func LocalSite(dir string) (string, error) {
	loaded, err := loadMaterial(dir)
	if err == nil {
		err = siteMaterial(loaded)
	}
	if err != nil {
		return "", fmt.Errorf("load certificates: %w", err)
	}
	return loaded.site, nil
}

// ServerTLS returns the configuration of a gateway whose certificates are in
// dir: TLS 1.3, a client certificate required and verified against ca.crt. A
// client must be one of wantSites; with none given, any site that the authority
// has signed. The connection's peer is [SiteFromCert] of PeerCertificates[0].
//
// The files are read now, and again at a handshake after they changed. An error
// means that they do not load now. The result may be used concurrently.
func ServerTLS(dir string, wantSites ...string) (*tls.Config, error) {
	ring, err := openKeyring(dir, siteMaterial)
	if err != nil {
		return nil, err
	}
	return serverConfig(ring, requireSite(wantSites)), nil
}

// serverConfig demands a client certificate that the authorities have signed
// and that require returns nil for.
func serverConfig(ring *keyring, require func(*x509.Certificate) error) *tls.Config {
	config := baseConfig(ring)
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.ClientCAs = ring.current().roots
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return ErrNoSite
		}
		return require(state.PeerCertificates[0])
	}
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		fresh := config.Clone()
		fresh.GetConfigForClient = nil
		fresh.ClientCAs = ring.current().roots
		return fresh, nil
	}
	return config
}

// ClientTLS returns the configuration of a client whose certificates are in dir
// and that talks to site wantSite only: TLS 1.3, the server's chain verified
// against ca.crt, its site name compared with wantSite (a mismatch is
// ErrWrongSite). The address that was dialled is not part of the identity and
// is not compared; see the package comment.
//
// The files are read now, and again at a handshake after they changed. An error
// means that they do not load now, or ErrSiteName. The result may be used
// concurrently.
func ClientTLS(dir, wantSite string) (*tls.Config, error) {
	if err := ValidateSite(wantSite); err != nil {
		return nil, err
	}
	ring, err := openKeyring(dir, siteMaterial)
	if err != nil {
		return nil, err
	}
	return clientConfig(ring, requireSite([]string{wantSite})), nil
}

// clientConfig demands a server certificate that the authorities have signed
// and that require returns nil for.
func clientConfig(ring *keyring, require func(*x509.Certificate) error) *tls.Config {
	config := baseConfig(ring)
	// crypto/tls can neither skip only the host name nor change RootCAs per
	// handshake, so its verification is replaced, not dropped: verifyServer
	// runs on every connection, and a handshake fails when it does.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		return verifyServer(state, ring.current().roots, require, time.Now())
	}
	return config
}

func baseConfig(ring *keyring) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		MaxVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// A resumed session would skip the check of a certificate that has
		// been replaced or has ended since.
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &ring.current().cert, nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &ring.current().cert, nil
		},
	}
}

// verifyServer does what crypto/tls does for a server's chain, but with require
// in the place of the host's name.
func verifyServer(state tls.ConnectionState, roots *x509.CertPool, require func(*x509.Certificate) error, now time.Time) error {
	if len(state.PeerCertificates) == 0 {
		return fmt.Errorf("verify server: %w", ErrNoSite)
	}
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err == nil {
		err = require(state.PeerCertificates[0])
	}
	if err != nil {
		return fmt.Errorf("verify server: %w", err)
	}
	return nil
}

// requireSite accepts certificates of the named sites; of any site when none
// is named. Others are ErrWrongSite or ErrNoSite.
func requireSite(want []string) func(*x509.Certificate) error {
	return func(cert *x509.Certificate) error {
		site, err := SiteFromCert(cert)
		if err != nil {
			return err
		}
		if len(want) > 0 && !slices.Contains(want, site) {
			return fmt.Errorf("%w: want %s, found %s", ErrWrongSite, strings.Join(want, " or "), site)
		}
		return nil
	}
}
