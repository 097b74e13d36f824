// Package certs makes and loads the certificates of mutual TLS between sites.
//
// One certificate authority (CA) is shared by all sites of an installation.
// Each site holds a leaf certificate, signed by it, whose subject alternative
// name carries the URI lockstep://site/NAME. That URI is the site's identity:
// a peer is accepted for the name that its certificate carries and never for
// the address it was reached at, because a gateway may sit behind a load
// balancer, a tunnel or an address that changes. Host names and IP addresses
// are put into the leaf too, so that other TLS clients can verify it.
//
// # Roles
//
// Inside a site's cluster another authority, kept by its controller, signs
// certificates of roles, whose URI is lockstep://site/NAME/role/ROLE. The two
// kinds never stand for each other: [ServerTLS] and [ClientTLS] take those of
// sites, [RoleServerTLS] and [RoleClientTLS] those of the accepted roles at the
// own site. An authority and what it issues can be kept anywhere
// ([Authority.Files], [Identity.Files]); those who use an identity read it from
// files.
//
// # Files
//
// An authority directory holds ca.crt and ca.key. A site directory holds what
// one site needs and nothing more:
//
//	ca.crt    the authority that peers must be signed by (may hold several)
//	tls.crt   the site's certificate
//	tls.key   its private key, mode 0600
//
// Keys are ECDSA P-256 in PKCS #8. The authority lives 10 years, a site's leaf
// one year, a role's 90 days, unless asked otherwise; [RenewAt] says when a leaf
// is to be replaced. Each file is replaced atomically and is durable
// before the call that wrote it returns. While a pair is replaced, tls.key holds
// the old key behind the new one, so that what a kill leaves has the key of its
// certificate; whoever loads a directory looks for that.
//
// # Invariants
//
//   - TLS 1.3 only, both sides authenticated, sessions never resumed: every
//     connection is verified against the files as they are now.
//   - All configurations follow the files: a renewed certificate or authority
//     is used by the next handshake. A set of files that does not load (for
//     instance one that is half replaced), or that is of another site or role,
//     leaves the last good set in use.
//
// The package starts no goroutines. It does not revoke certificates, does not
// renew them by itself, and does not protect the authority's key by a password:
// keep ca.key off the sites.
package certs
