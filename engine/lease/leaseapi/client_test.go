package leaseapi_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	authv1 "k8s.io/api/authentication/v1"
	coordv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/engine/lease"
	"github.com/lockstep-csi/lockstep/engine/lease/leaseapi"
	"github.com/lockstep-csi/lockstep/internal/apitest"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

const name = "engine-0f"

// pod makes a Lease and what an engine's pod would have: a service account
// with the rights that the package asks for, and its token in a file.
func pod(t *testing.T, verbs ...string) (*apitest.Server, leaseapi.Config) {
	t.Helper()
	s := apitest.Start(t)
	ns := s.Namespace(t)
	c, ctx := s.Client(), t.Context()
	meta := metav1.ObjectMeta{Name: "engine"}
	_, err := c.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	check(t, err)
	_, err = c.RbacV1().Roles(ns).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: verbs,
	}}}, metav1.CreateOptions{})
	check(t, err)
	_, err = c.RbacV1().RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta,
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "engine", Namespace: ns}},
		RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "engine"},
	}, metav1.CreateOptions{})
	check(t, err)
	_, err = c.CoordinationV1().Leases(ns).Create(ctx, &coordv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"lockstep.dev/volume": "0f"}},
	}, metav1.CreateOptions{})
	check(t, err)
	token, err := c.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "engine", &authv1.TokenRequest{}, metav1.CreateOptions{})
	check(t, err)
	file := filepath.Join(t.TempDir(), "token")
	check(t, os.WriteFile(file, []byte(token.Status.Token+"\n"), 0o600))
	return s, leaseapi.Config{Server: s.Config().Host, CAFile: s.CAFile(), TokenFile: file, Namespace: ns, Name: name}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func client(t *testing.T, c leaseapi.Config) *leaseapi.Client {
	t.Helper()
	l, err := leaseapi.New(c)
	check(t, err)
	return l
}

func TestOneVersionIsReplacedOnce(t *testing.T) {
	s, config := pod(t, "get", "patch")
	l := client(t, config)
	fresh, err := l.Get(t.Context())
	check(t, err)
	if fresh.Holder != "" || fresh.Version == "" {
		t.Fatalf("fresh lease is %+v", fresh)
	}
	first, err := l.Put(t.Context(), "a", fresh.Version)
	check(t, err)
	if _, err := l.Put(t.Context(), "b", fresh.Version); !errors.Is(err, lease.ErrConflict) {
		t.Fatalf("second put from one version: %v, want ErrConflict", err)
	}
	second, err := l.Put(t.Context(), "a", first.Version)
	check(t, err)
	if second.Version == first.Version {
		t.Error("a renewal has made no other version")
	}
	found, err := l.Get(t.Context())
	check(t, err)
	if found != second {
		t.Errorf("found %+v, want %+v", found, second)
	}
	object, err := s.Client().CoordinationV1().Leases(config.Namespace).Get(t.Context(), name, metav1.GetOptions{})
	check(t, err)
	if object.Labels["lockstep.dev/volume"] != "0f" || *object.Spec.HolderIdentity != "a" || *object.Spec.LeaseDurationSeconds != 40 {
		t.Errorf("the object is %+v", object)
	}
	released, err := l.Put(t.Context(), "", second.Version)
	check(t, err)
	if released.Holder != "" {
		t.Errorf("after the release: %+v", released)
	}
}

func TestRefusalsAreNoConflicts(t *testing.T) {
	_, config := pod(t, "get")
	l := client(t, config)
	found, err := l.Get(t.Context())
	check(t, err)
	if _, err := l.Put(t.Context(), "a", found.Version); err == nil || errors.Is(err, lease.ErrConflict) {
		t.Errorf("put without the right: %v, want an error that is no conflict", err)
	}
	config.Name = "none"
	if _, err := client(t, config).Get(t.Context()); err == nil {
		t.Error("a lease that does not exist was read")
	}
}

// The kubelet replaces the token; a request takes the one that is there.
func TestTokenIsReadForEachRequest(t *testing.T) {
	_, config := pod(t, "get")
	l := client(t, config)
	token, err := os.ReadFile(config.TokenFile)
	check(t, err)
	check(t, os.WriteFile(config.TokenFile, []byte("stale"), 0o600))
	if _, err := l.Get(t.Context()); err == nil {
		t.Fatal("a request with a token that is not valid was answered")
	}
	check(t, os.WriteFile(config.TokenFile, token, 0o600))
	_, err = l.Get(t.Context())
	check(t, err)
}
