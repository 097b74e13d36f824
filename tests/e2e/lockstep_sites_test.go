//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// peerSecret is the Secret that a site shows to the other one.
const peerSecret = "lockstep-peer-tls"

// siteCertificates are what `lockstep certs` makes for both sites, by site and
// file. Every run has an authority of its own.
var siteCertificates = sync.OnceValues(func() (made map[string]map[string][]byte, err error) {
	dir, err := os.MkdirTemp("", "ls-e2e-certs-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if _, err := harness.Run(context.Background(), binary, "certs", "--out", dir, "--site", "a", "--site", "b"); err != nil {
		return nil, err
	}
	made = map[string]map[string][]byte{}
	for _, site := range []string{"a", "b"} {
		made[site] = map[string][]byte{}
		for _, file := range []string{"ca.crt", "tls.crt", "tls.key"} {
			if made[site][file], err = os.ReadFile(filepath.Join(dir, site, file)); err != nil {
				return nil, err
			}
		}
	}
	return made, nil
})

// makePeerSecret makes what the cluster's site shows to the other one.
func (c *Cluster) makePeerSecret(ctx context.Context) error {
	made, err := siteCertificates()
	if err != nil {
		return err
	}
	_, err = c.Client.CoreV1().Secrets(SystemNamespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: peerSecret}, Data: made[c.Name]}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// lockstepOnBoth returns two clusters with Lockstep, each a site that the other
// one is a peer of. Releases that were there before have to be sites a and b,
// and Sites that are there are used.
func lockstepOnBoth(t *testing.T) (a, b *Cluster) {
	t.Helper()
	a, b = both(t)
	lockstepOn(t, a)
	lockstepOn(t, b)
	a.peerWith(t, b)
	b.peerWith(t, a)
	for c, peer := range map[*Cluster]string{a: b.Name, b: a.Name} {
		WaitFor(t, installTimeout, "site "+c.Name+" to be connected with "+peer, func(ctx context.Context) error {
			site, err := c.site(ctx, peer)
			if err == nil && (!site.Status.Connected || site.Status.Version == "") {
				err = fmt.Errorf("its status is %+v", site.Status)
			}
			return err
		})
	}
	return a, b
}

func (c *Cluster) site(ctx context.Context, name string) (*v1alpha1.Site, error) {
	found, err := c.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("sites")).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	site := &v1alpha1.Site{}
	return site, runtime.DefaultUnstructuredConverter.FromUnstructured(found.Object, site)
}

// peerWith makes a Site for the other cluster's gateway, which goes with the
// definitions when the release is removed.
func (c *Cluster) peerWith(t *testing.T, peer *Cluster) {
	t.Helper()
	if _, err := c.site(t.Context(), peer.Name); !apierrors.IsNotFound(err) {
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	address, err := peer.gatewayAddress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	objects, err := ParseManifests(fmt.Appendf(nil, `
apiVersion: lockstep.dev/v1alpha1
kind: Site
metadata: {name: %s}
spec: {address: %q}
`, peer.Name, address))
	if err == nil {
		err = c.Apply(t.Context(), "", objects)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// gatewayAddress is where the other cluster reaches this one's gateway. The
// kit's clusters reach each other's services.
func (c *Cluster) gatewayAddress(ctx context.Context) (string, error) {
	service, err := c.Client.CoreV1().Services(SystemNamespace).Get(ctx, release+"-gateway", metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	host := service.Spec.ClusterIP
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if host = ingress.IP; host == "" {
			host = ingress.Hostname
		}
	}
	return net.JoinHostPort(host, fmt.Sprint(service.Spec.Ports[0].Port)), nil
}
