package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"
)

// LocalRole returns the site and role that the certificate in dir was issued
// to. A process checks them before it starts.
func LocalRole(dir string) (site string, role Role, err error) {
	loaded, err := loadMaterial(dir)
	if err == nil {
		err = roleMaterial(loaded)
	}
	if err != nil {
		return "", "", fmt.Errorf("load certificates: %w", err)
	}
	return loaded.site, loaded.role, nil
}

// RoleServerTLS returns the configuration of a server inside a cluster whose
// certificates are in dir: TLS 1.3, a client certificate required, verified
// against ca.crt, and of one of accept at the site that the server's own
// certificate names; else ErrNoRole, ErrWrongSite or ErrWrongRole. At least one
// role must be accepted.
//
// The files are read now, and again at a handshake after they changed, which
// never changes the site. An error means that they do not load now. The result
// may be used concurrently.
func RoleServerTLS(dir string, accept ...Role) (*tls.Config, error) {
	ring, require, err := openRoleKeyring(dir, accept)
	if err != nil {
		return nil, err
	}
	return serverConfig(ring, require), nil
}

// RoleClientTLS returns the configuration of a client inside a cluster whose
// certificates are in dir and that talks to servers of the accepted roles at
// its own site only: TLS 1.3, the server's chain verified against ca.crt. The
// address that was dialled is not part of the identity: pods have no lasting
// one. Files and errors are as for RoleServerTLS.
func RoleClientTLS(dir string, accept ...Role) (*tls.Config, error) {
	ring, require, err := openRoleKeyring(dir, accept)
	if err != nil {
		return nil, err
	}
	return clientConfig(ring, require), nil
}

func openRoleKeyring(dir string, accept []Role) (*keyring, func(*x509.Certificate) error, error) {
	if len(accept) == 0 {
		return nil, nil, fmt.Errorf("accept nobody: %w", ErrRole)
	}
	for _, role := range accept {
		if err := role.Validate(); err != nil {
			return nil, nil, err
		}
	}
	ring, err := openKeyring(dir, roleMaterial)
	if err != nil {
		return nil, nil, err
	}
	return ring, RequireRole(ring.current().site, accept...), nil
}

// roleMaterial refuses files that are not of a role.
func roleMaterial(m *material) error {
	if m.role == "" {
		return fmt.Errorf("%s is of site %s: %w", CertFile, m.site, ErrNoRole)
	}
	return nil
}

// RenewAt is when a certificate is to be replaced: at two thirds of its
// validity, so that a renewal that fails can be tried for the last third.
func RenewAt(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 3 * 2)
}
