// Package authority is the certificate authority inside a cluster
// (docs/kubernetes.md, "Certificates"): its key is in Secret lockstep-ca, which
// only the controller may read, and it issues a certificate for each role into
// a Secret of the role's own, from which pods mount it.
//
// Invariants:
//
//   - A Secret is replaced only by who has seen the one before
//     (resourceVersion), so two controllers at a time end with one authority, and
//     with certificates that belong to it.
//   - A role's Secret is complete: certificate, key and authorities change in one
//     write.
//   - When the authority itself is replaced, the new one is trusted everywhere
//     before it signs anything: for trustFirst after it was made, the old one
//     signs on, and every Secret has both certificates.
//
// The package knows nothing of the trust between sites, and starts no
// goroutines.
package authority
