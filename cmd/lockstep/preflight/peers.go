package preflight

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
)

// renewBefore is how long before a peer certificate's end a warning begins.
const renewBefore = 30 * 24 * time.Hour

var peerKeys = []string{"ca.crt", "tls.crt", "tls.key"}

func (i *inspection) checkPeers(ctx context.Context) {
	const check = "peer"
	if !i.serves(v1alpha1.GroupVersion.String()) {
		return
	}
	list, err := i.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("sites")).List(ctx, metav1.ListOptions{})
	if err != nil {
		i.unseen(check, "", err)
		return
	}
	for _, object := range list.Items {
		var site v1alpha1.Site
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &site); err != nil {
			i.unseen(check, object.GetName(), err)
			continue
		}
		i.checkPeerSecret(ctx, site)
		i.checkPeerConnected(site)
	}
}

func (i *inspection) checkPeerSecret(ctx context.Context, site v1alpha1.Site) {
	const check = "peer Secret"
	name := site.Spec.TLSSecretName
	object := site.Name + ": " + name
	remedy := fmt.Sprintf("kubectl -n %s create secret generic %s --from-file=…, with what `lockstep certs` made", i.DriverNamespace, name)
	secret, err := i.Kube.CoreV1().Secrets(i.DriverNamespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		i.fail(check, object, "missing", remedy)
		return
	}
	if err != nil {
		i.unseen(check, object, err)
		return
	}
	end, err := peerCertificateEnd(secret)
	switch {
	case err != nil:
		i.fail(check, object, err.Error(), remedy)
	case !i.now.Before(end):
		i.fail(check, object, "expired on "+end.UTC().Format(time.DateOnly), "issue another with `lockstep certs issue` and replace the Secret")
	case end.Sub(i.now) < renewBefore:
		i.warn(check, object, "expires on "+end.UTC().Format(time.DateOnly), "issue another with `lockstep certs issue` and replace the Secret")
	default:
		i.ok(check, object, "valid until "+end.UTC().Format(time.DateOnly))
	}
}

// peerCertificateEnd is when the certificate that is presented expires.
func peerCertificateEnd(secret *corev1.Secret) (time.Time, error) {
	var missing []string
	for _, key := range peerKeys {
		if len(secret.Data[key]) == 0 {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		return time.Time{}, errors.New("it lacks " + strings.Join(missing, ", "))
	}
	block, _ := pem.Decode(secret.Data["tls.crt"])
	if block == nil {
		return time.Time{}, errors.New("tls.crt is no PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, fmt.Errorf("tls.crt: %w", err)
	}
	return certificate.NotAfter, nil
}

func (i *inspection) checkPeerConnected(site v1alpha1.Site) {
	const check = "peer"
	if site.Status.Connected {
		i.ok(check, site.Name, "connected at "+site.Spec.Address)
		return
	}
	found := "not connected at " + site.Spec.Address
	for _, condition := range site.Status.Conditions {
		if condition.Type == v1alpha1.SiteConnected && condition.Message != "" {
			found += ": " + condition.Message
		}
	}
	i.warn(check, site.Name, found, "see that the address is reached from here, and that the other site has this one as a Site")
}
