package authority

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lockstep-csi/lockstep/internal/certs"
)

// Files of the one before, in the authority's Secret.
const (
	previousCert = "previous.crt"
	previousKey  = "previous.key"
)

// authorities are the newest one and, after it was replaced, the one before.
type authorities struct {
	current, previous *certs.Authority
}

// decode reads the authority's Secret; nothing in it is no authority yet.
func decode(secret *corev1.Secret) (authorities, error) {
	if len(secret.Data) == 0 {
		return authorities{}, nil
	}
	var a authorities
	var err error
	if a.current, err = read(secret, certs.AuthorityFile, certs.AuthorityKeyFile); err != nil {
		return authorities{}, err
	}
	if len(secret.Data[previousCert]) == 0 {
		return a, nil
	}
	a.previous, err = read(secret, previousCert, previousKey)
	return a, err
}

func read(secret *corev1.Secret, certFile, keyFile string) (*certs.Authority, error) {
	found, err := certs.AuthorityFromFiles(map[string][]byte{
		certs.AuthorityFile: secret.Data[certFile], certs.AuthorityKeyFile: secret.Data[keyFile],
	})
	if err != nil {
		return nil, fmt.Errorf("%w: Secret %s, %s and %s: %w: restore the Secret, or delete it for a new authority, and restart all pods",
			ErrDamaged, secret.Name, certFile, keyFile, err)
	}
	return found, nil
}

// encode replaces the Secret's data.
func (a authorities) encode(secret *corev1.Secret) error {
	files, err := a.current.Files()
	if err != nil {
		return err
	}
	if a.previous != nil {
		old, err := a.previous.Files()
		if err != nil {
			return err
		}
		files[previousCert], files[previousKey] = old[certs.AuthorityFile], old[certs.AuthorityKeyFile]
	}
	secret.Data = files
	return nil
}

// renew makes an authority when there is none, it is due, or nobody takes what it would
// sign, and forgets the one before when nothing that it signed can be in use.
func (a *authorities) renew(now time.Time) (changed bool, err error) {
	if a.current == nil || !now.Before(certs.RenewAt(a.current.Cert)) || !a.canSign(now) {
		fresh, err := certs.NewAuthority(now)
		if err != nil {
			return false, err
		}
		a.previous, a.current = a.current, fresh
		return true, nil
	}
	if a.previous != nil && now.After(signsFrom(a.current).Add(certs.DefaultRoleValidity)) {
		a.previous = nil
		return true, nil
	}
	return false, nil
}

// signsFrom is when a new authority takes the place of one before.
func signsFrom(a *certs.Authority) time.Time { return a.Cert.NotBefore.Add(trustFirst) }

// canSign is false for an authority that was made by a clock that was ahead, and takes no
// other's place: nobody trusts it before the time comes that this clock had.
func (a authorities) canSign(now time.Time) bool {
	signer, _ := a.roles(now)
	return !now.Before(signer.Cert.NotBefore)
}

// roles says which one signs, and which other is trusted. One before that is not valid, or
// not any more, signs nothing: that would be taken by nobody, and so no link is cut by
// having the new one sign at once.
func (a authorities) roles(now time.Time) (signer *certs.Authority, trusted []*x509.Certificate) {
	switch {
	case a.previous == nil:
		return a.current, nil
	case now.Before(signsFrom(a.current)) && isValid(a.previous.Cert, now):
		return a.previous, []*x509.Certificate{a.current.Cert}
	}
	return a.current, []*x509.Certificate{a.previous.Cert}
}

func isValid(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore) && !now.After(c.NotAfter)
}

// trusts reports whether a bundle has these certificates and no others.
func trusts(bundle []byte, wanted []*x509.Certificate) bool {
	var found [][]byte
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		found = append(found, block.Bytes)
	}
	return len(found) == len(wanted) && !slices.ContainsFunc(wanted, func(c *x509.Certificate) bool {
		return !slices.ContainsFunc(found, func(raw []byte) bool { return bytes.Equal(raw, c.Raw) })
	})
}

func sameData(a, b *corev1.Secret) bool {
	return maps.EqualFunc(a.Data, b.Data, func(x, y []byte) bool { return bytes.Equal(x, y) })
}
