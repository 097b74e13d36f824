package certs

import "errors"

var (
	// ErrExists is returned when a file to be written is already there and
	// overwriting was not asked for.
	ErrExists = errors.New("file exists")

	// ErrSiteName is returned for a site name that is not a DNS label.
	ErrSiteName = errors.New("invalid site name")

	// ErrHost is returned for a host that is neither an IP address nor a DNS
	// name.
	ErrHost = errors.New("invalid host")

	// ErrValidity is returned for a lifetime below zero.
	ErrValidity = errors.New("invalid lifetime")

	// ErrNoSite is returned for a certificate that does not carry exactly one
	// site URI.
	ErrNoSite = errors.New("certificate names no site")

	// ErrWrongSite is returned by a handshake whose peer proved to be a site
	// other than the wanted one.
	ErrWrongSite = errors.New("wrong site")

	// ErrRole is returned for a role that is not a DNS label, and where no
	// role is given.
	ErrRole = errors.New("invalid role")

	// ErrNoRole is returned for a certificate that does not carry exactly one
	// role URI.
	ErrNoRole = errors.New("certificate names no role")

	// ErrWrongRole is returned by a handshake whose peer has another role than
	// those that are accepted.
	ErrWrongRole = errors.New("wrong role")

	// ErrNotAuthority is returned for a CA certificate that may not sign.
	ErrNotAuthority = errors.New("certificate is not an authority")

	// ErrExpired is returned when an authority that has ended is asked to
	// sign. A peer's expired certificate is reported by crypto/x509 instead.
	ErrExpired = errors.New("certificate has expired")
)
