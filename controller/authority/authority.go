package authority

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/internal/clock"
)

const (
	// SecretName is the authority's own Secret.
	SecretName = "lockstep-ca"
	// checkEvery is how often Run looks at all Secrets, so that one that
	// somebody has deleted is made again soon.
	checkEvery = time.Minute
	// trustFirst is how long a new authority is only trusted: longer than a
	// kubelet takes to bring a changed Secret to a pod.
	trustFirst = 24 * time.Hour
	// conflicts is how often a Secret that is changed by somebody else is read
	// again before that is an error.
	conflicts = 5
)

// Roles are those that get a certificate.
var Roles = []certs.Role{certs.RoleController, certs.RoleEngine, certs.RoleGateway}

// SecretOf is the name of a role's Secret.
func SecretOf(role certs.Role) string { return "lockstep-tls-" + string(role) }

// ErrDamaged says that the authority's Secret cannot be read, and what to do.
var ErrDamaged = errors.New("certificate authority cannot be used")

// Config is what an Authority needs; all but Log and Clock is required.
type Config struct {
	// Secrets are those of the driver's namespace. Needs the right create on
	// all, and get and update on SecretName and those of Roles.
	Secrets typedcorev1.SecretInterface
	Site    string
	Clock   clock.Clock  // nil: the machine's
	Log     *slog.Logger // nil: discarded
}

// Authority issues and renews certificates. It is used by one goroutine.
type Authority struct{ config Config }

// New returns an Authority; it does nothing yet.
func New(c Config) (*Authority, error) {
	if c.Secrets == nil {
		return nil, errors.New("certificate authority: no Secrets client")
	}
	if err := certs.ValidateSite(c.Site); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	if c.Clock == nil {
		c.Clock = clock.Wall{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Authority{config: c}, nil
}

// Run keeps all Secrets in order until ctx ends. What fails is tried again: the
// certificates that are there are good for a month after they should have been
// renewed. Call Ensure first, to know that there are any.
func (a *Authority) Run(ctx context.Context) error {
	for {
		timer := a.config.Clock.NewTimer(checkEvery)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		if err := a.Ensure(ctx); err != nil && ctx.Err() == nil {
			a.config.Log.Error("certificates could not be kept in order", "error", err)
		}
	}
}

// Ensure makes what is missing and renews what is due: the authority, and each
// role's certificate. Its effects are durable on return. It may be repeated
// after a failure at any point. ErrDamaged.
func (a *Authority) Ensure(ctx context.Context) error {
	signer, trusted, err := a.ensureAuthority(ctx)
	if err != nil {
		return fmt.Errorf("ensure Secret %s: %w", SecretName, err)
	}
	for _, role := range Roles {
		if err := a.ensureRole(ctx, role, signer, trusted); err != nil {
			return fmt.Errorf("ensure Secret %s: %w", SecretOf(role), err)
		}
	}
	return nil
}

// ensureAuthority returns the authority that signs, and all others whose
// certificates are to be trusted.
func (a *Authority) ensureAuthority(ctx context.Context) (signer *certs.Authority, trusted []*x509.Certificate, err error) {
	var pair authorities
	err = a.change(ctx, SecretName, func(secret *corev1.Secret) error {
		if pair, err = decode(secret); err != nil {
			return err
		}
		changed, err := pair.renew(a.config.Clock.Now())
		if err != nil || !changed {
			return err
		}
		return pair.encode(secret)
	})
	if err != nil {
		return nil, nil, err
	}
	signer, trusted = pair.roles(a.config.Clock.Now())
	return signer, trusted, nil
}

// ensureRole issues a role's certificate when there is none, when it is due, or
// when it is not what the authorities of now would give.
func (a *Authority) ensureRole(ctx context.Context, role certs.Role, signer *certs.Authority, trusted []*x509.Certificate) error {
	return a.change(ctx, SecretOf(role), func(secret *corev1.Secret) error {
		now := a.config.Clock.Now()
		if a.upToDate(secret, role, signer, trusted, now) {
			return nil
		}
		identity, err := signer.Issue(certs.Request{Site: a.config.Site, Role: role, Now: now})
		if err != nil {
			return err
		}
		files, err := identity.Files(trusted...)
		if err != nil {
			return err
		}
		secret.Type = corev1.SecretTypeTLS
		secret.Data = files
		a.config.Log.Info("certificate issued", "role", role, "until", identity.Cert.NotAfter)
		return nil
	})
}

// upToDate reports whether a role's Secret can stay as it is.
func (a *Authority) upToDate(secret *corev1.Secret, role certs.Role, signer *certs.Authority, trusted []*x509.Certificate, now time.Time) bool {
	cert, err := certs.ParseCertificate(secret.Data[certs.CertFile])
	if err != nil || !now.Before(certs.RenewAt(cert)) {
		return false
	}
	if _, err := tls.X509KeyPair(secret.Data[certs.CertFile], secret.Data[certs.KeyFile]); err != nil {
		return false // the key of another one, which no process would start with
	}
	if now.Before(cert.NotBefore) {
		return false // it was issued by a clock that was ahead, and nobody takes it yet
	}
	site, found, err := certs.RoleFromCert(cert)
	if err != nil || site != a.config.Site || found != role || cert.CheckSignatureFrom(signer.Cert) != nil {
		return false
	}
	return trusts(secret.Data[certs.AuthorityFile], append([]*x509.Certificate{signer.Cert}, trusted...))
}

// change reads a Secret, which is new and empty when there is none, has edit
// change it, and writes it if it did, unless somebody else has meanwhile: then
// it begins again.
func (a *Authority) change(ctx context.Context, name string, edit func(*corev1.Secret) error) error {
	var err error
	for range conflicts {
		var secret *corev1.Secret
		secret, err = a.config.Secrets.Get(ctx, name, metav1.GetOptions{})
		missing := apierrors.IsNotFound(err)
		if missing {
			secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{labelPartOf: partOf}}}
		} else if err != nil {
			return err
		}
		before := secret.DeepCopy()
		if err := edit(secret); err != nil {
			return err
		}
		switch {
		case missing:
			_, err = a.config.Secrets.Create(ctx, secret, metav1.CreateOptions{})
		case sameData(before, secret):
			return nil
		default:
			// Of another type, it cannot be made one of certificates.
			secret.Type = before.Type
			_, err = a.config.Secrets.Update(ctx, secret, metav1.UpdateOptions{})
		}
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return err
}

const (
	labelPartOf = "app.kubernetes.io/part-of"
	partOf      = "lockstep"
)
