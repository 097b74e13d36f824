package authority_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/lockstep-csi/lockstep/controller/authority"
	"github.com/lockstep-csi/lockstep/internal/apitest"
	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/internal/clock"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

const day = 24 * time.Hour

// rig is a namespace with a clock that the test advances. TLS verifies against
// the machine's clock, so rigs whose certificates are used begin now.
type rig struct {
	t         *testing.T
	server    *apitest.Server
	client    kubernetes.Interface
	namespace string
	clock     *clock.Manual
	authority *authority.Authority
}

func newRig(t *testing.T) *rig {
	t.Helper()
	s := apitest.Start(t)
	r := &rig{t: t, server: s, client: s.Client(), namespace: s.Namespace(t), clock: clock.NewManual(time.Now())}
	r.authority = r.of(r.client)
	return r
}

func (r *rig) of(client kubernetes.Interface) *authority.Authority {
	r.t.Helper()
	a, err := authority.New(authority.Config{Secrets: client.CoreV1().Secrets(r.namespace), Site: "a", Clock: r.clock})
	r.check(err)
	return a
}

func (r *rig) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) ensure() {
	r.t.Helper()
	r.check(r.authority.Ensure(r.t.Context()))
}

func (r *rig) secret(name string) *corev1.Secret {
	r.t.Helper()
	s, err := r.client.CoreV1().Secrets(r.namespace).Get(r.t.Context(), name, metav1.GetOptions{})
	r.check(err)
	return s
}

func (r *rig) update(s *corev1.Secret) {
	r.t.Helper()
	_, err := r.client.CoreV1().Secrets(r.namespace).Update(r.t.Context(), s, metav1.UpdateOptions{})
	r.check(err)
}

func (r *rig) role(role certs.Role) *corev1.Secret { return r.secret(authority.SecretOf(role)) }

// mount writes a role's Secret to a folder, as a kubelet does.
func (r *rig) mount(role certs.Role) string {
	r.t.Helper()
	dir := r.t.TempDir()
	for name, data := range r.role(role).Data {
		r.check(os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	return dir
}

// talk has a client connect to a server with what is mounted at each.
func (r *rig) talk(serverDir string, accept certs.Role, clientDir string, wanted certs.Role) error {
	r.t.Helper()
	serverTLS, err := certs.RoleServerTLS(serverDir, accept)
	r.check(err)
	clientTLS, err := certs.RoleClientTLS(clientDir, wanted)
	r.check(err)
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	served := make(chan error, 1)
	go func() {
		conn := tls.Server(a, serverTLS)
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte{1})
		}
		served <- errors.Join(err, a.Close())
	}()
	conn := tls.Client(b, clientTLS)
	_, err = conn.Read(make([]byte, 1))
	return errors.Join(err, <-served)
}

func TestRolesCanTalk(t *testing.T) {
	r := newRig(t)
	r.ensure()
	engine, controller, gateway := r.mount(certs.RoleEngine), r.mount(certs.RoleController), r.mount(certs.RoleGateway)
	r.check(r.talk(engine, certs.RoleController, controller, certs.RoleEngine))
	if err := r.talk(engine, certs.RoleController, gateway, certs.RoleEngine); !errors.Is(err, certs.ErrWrongRole) {
		t.Errorf("gateway for controller: %v, want ErrWrongRole", err)
	}
	for _, role := range authority.Roles {
		s := r.role(role)
		cert, err := certs.ParseCertificate(s.Data[certs.CertFile])
		r.check(err)
		if want := "lockstep://site/a/role/" + string(role); cert.URIs[0].String() != want {
			t.Errorf("certificate of %s, want %s", cert.URIs[0], want)
		}
		if _, ok := s.Data[certs.AuthorityKeyFile]; ok || s.Type != corev1.SecretTypeTLS {
			t.Errorf("Secret %s of type %s has %d files", s.Name, s.Type, len(s.Data))
		}
	}
}

func TestNothingChangesBeforeItIsDue(t *testing.T) {
	r := newRig(t)
	r.ensure()
	before := []string{r.secret(authority.SecretName).ResourceVersion, r.role(certs.RoleEngine).ResourceVersion}
	r.clock.Advance(59 * day)
	r.ensure()
	if r.secret(authority.SecretName).ResourceVersion != before[0] || r.role(certs.RoleEngine).ResourceVersion != before[1] {
		t.Error("a Secret was written before two thirds of its validity")
	}
	r.clock.Advance(2 * day)
	r.ensure()
	if r.secret(authority.SecretName).ResourceVersion != before[0] {
		t.Error("the authority was written")
	}
	cert, err := certs.ParseCertificate(r.role(certs.RoleEngine).Data[certs.CertFile])
	r.check(err)
	if left := cert.NotAfter.Sub(r.clock.Now()); left < 89*day || left > 91*day {
		t.Errorf("the new certificate is good for %v, want 90 days", left)
	}
}

func TestWhatIsDamagedIsMadeAnew(t *testing.T) {
	harm := map[string]func(r *rig){
		"deleted": func(r *rig) {
			r.check(r.client.CoreV1().Secrets(r.namespace).Delete(t.Context(), authority.SecretOf(certs.RoleEngine), metav1.DeleteOptions{}))
		},
		"another role's": func(r *rig) {
			s := r.role(certs.RoleEngine)
			s.Data = r.role(certs.RoleGateway).Data
			r.update(s)
		},
		"another key": func(r *rig) {
			s := r.role(certs.RoleEngine)
			s.Data[certs.KeyFile] = r.role(certs.RoleGateway).Data[certs.KeyFile]
			r.update(s)
		},
		"no certificate": func(r *rig) {
			s := r.role(certs.RoleEngine)
			s.Data[certs.CertFile] = []byte("x")
			r.update(s)
		},
		"trusts nobody": func(r *rig) {
			s := r.role(certs.RoleEngine)
			delete(s.Data, certs.AuthorityFile)
			r.update(s)
		},
		"of an authority that is gone": func(r *rig) {
			r.check(r.client.CoreV1().Secrets(r.namespace).Delete(t.Context(), authority.SecretName, metav1.DeleteOptions{}))
		},
	}
	for name, do := range harm {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.ensure()
			do(r)
			r.ensure()
			r.check(r.talk(r.mount(certs.RoleEngine), certs.RoleController, r.mount(certs.RoleController), certs.RoleEngine))
		})
	}
}

// A key that cannot be read is not thrown away: everything would be signed anew
// by one that no running pod trusts.
func TestADamagedAuthorityIsLeftAlone(t *testing.T) {
	r := newRig(t)
	r.ensure()
	s := r.secret(authority.SecretName)
	s.Data[certs.AuthorityKeyFile] = []byte("x")
	r.update(s)
	if err := r.authority.Ensure(t.Context()); !errors.Is(err, authority.ErrDamaged) {
		t.Fatalf("got %v, want ErrDamaged", err)
	}
	if string(r.secret(authority.SecretName).Data[certs.AuthorityKeyFile]) != "x" {
		t.Error("it was written over")
	}
}

// A certificate that was issued while the controller's clock was ahead is not valid yet
// for anybody once the clock is right again, and is not kept until it would be due.
func TestAfterAClockThatWasAhead(t *testing.T) {
	r := newRig(t)
	right := r.clock.Now()
	r.ensure()
	r.clock.Advance(80 * day)
	r.ensure()
	r.clock = clock.NewManual(right.Add(time.Minute))
	r.authority = r.of(r.client)
	r.ensure()
	r.check(r.talk(r.mount(certs.RoleEngine), certs.RoleController, r.mount(certs.RoleController), certs.RoleEngine))
}

// The same goes for an authority: one that was made by a clock that was ahead signs what
// nobody takes until the clock has come so far.
func TestAfterAnAuthorityOfAClockThatWasAhead(t *testing.T) {
	r := newRig(t)
	right := r.clock.Now()
	r.clock.Advance(8 * time.Hour) // a clock that was set to local time
	r.ensure()
	r.clock = clock.NewManual(right.Add(time.Minute))
	r.authority = r.of(r.client)
	r.ensure()
	r.check(r.talk(r.mount(certs.RoleEngine), certs.RoleController, r.mount(certs.RoleController), certs.RoleEngine))
	made := r.secret(authority.SecretName).ResourceVersion
	r.clock.Advance(time.Hour)
	r.ensure()
	if r.secret(authority.SecretName).ResourceVersion != made {
		t.Error("the authority was made once more")
	}
}

// A clock that was ahead for a moment, by so much that the authority was due, leaves one of
// the future: the one before signs on, and is not thrown away for it.
func TestAfterARenewalByAClockThatWasAhead(t *testing.T) {
	r := newRig(t)
	right := r.clock.Now()
	r.ensure()
	first := r.mount(certs.RoleEngine)
	r.clock.Advance(7 * 365 * day)
	r.ensure()
	r.clock = clock.NewManual(right.Add(time.Minute))
	r.authority = r.of(r.client)
	r.ensure()
	r.check(r.talk(first, certs.RoleController, r.mount(certs.RoleController), certs.RoleEngine))
}

// An authority that has ended, as while the controller was away for years, does not sign for
// the day in which its successor is trusted only.
func TestAfterAnAuthorityHasEnded(t *testing.T) {
	r := newRig(t)
	r.clock = clock.NewManual(time.Now().AddDate(-certs.AuthorityYears, -1, 0))
	r.authority = r.of(r.client)
	r.ensure()
	r.clock = clock.NewManual(time.Now())
	r.authority = r.of(r.client)
	r.ensure()
	r.check(r.talk(r.mount(certs.RoleEngine), certs.RoleController, r.mount(certs.RoleController), certs.RoleEngine))
}

// While an authority is replaced, a pod whose Secret has not been brought to it
// yet talks to one whose Secret has.
func TestAuthorityIsReplacedWithoutABreak(t *testing.T) {
	r := newRig(t)
	// TLS looks at the machine's clock: begin so far back that the authority is
	// due about now, and the role's certificates, made on the way, are good.
	r.clock = clock.NewManual(time.Now().AddDate(-certs.AuthorityYears, 0, 0).Add(certs.AuthorityYears * 365 * day / 3).Add(-2 * day))
	r.authority = r.of(r.client)
	r.ensure()
	first := string(r.secret(authority.SecretName).Data[certs.AuthorityFile])
	const steps = 3 * 24
	r.advanceTo(time.Now().Add(-(steps + 1) * time.Hour))
	mounted := map[certs.Role]string{}
	for _, role := range authority.Roles {
		mounted[role] = r.mount(role)
	}
	replaced := false
	for step := range steps {
		r.clock.Advance(time.Hour)
		r.ensure()
		replaced = replaced || string(r.secret(authority.SecretName).Data[certs.AuthorityFile]) != first
		fresh := r.mount(certs.RoleEngine)
		r.check(r.talk(fresh, certs.RoleController, mounted[certs.RoleController], certs.RoleEngine))
		r.check(r.talk(mounted[certs.RoleEngine], certs.RoleController, r.mount(certs.RoleController), certs.RoleEngine))
		if step%12 == 11 { // a kubelet takes a minute or two
			for _, role := range authority.Roles {
				mounted[role] = r.mount(role)
			}
		}
	}
	if !replaced {
		t.Error("the authority was not replaced")
	}
}

// advanceTo lets time pass in steps in which a controller keeps certificates.
func (r *rig) advanceTo(end time.Time) {
	for r.clock.Now().Add(50 * day).Before(end) {
		r.clock.Advance(50 * day)
		r.ensure()
	}
	r.clock.Advance(end.Sub(r.clock.Now()))
	r.ensure()
}

func TestTwoControllersEndWithOneAuthority(t *testing.T) {
	r := newRig(t)
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if err := r.of(r.client).Ensure(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	r.ensure() // the one that stays
	r.check(r.talk(r.mount(certs.RoleEngine), certs.RoleController, r.mount(certs.RoleController), certs.RoleEngine))
}

func TestCutOffAtEveryRequest(t *testing.T) {
	const requests = 8 // a read and a write of each Secret
	for at := 1; at <= requests; at++ {
		for _, kind := range []apitest.Kind{apitest.Unsent, apitest.Unanswered} {
			t.Run(fmt.Sprintf("%v-%d", kind, at), func(t *testing.T) {
				r := newRig(t)
				client, fault, err := r.server.Fault()
				r.check(err)
				fault.Break(at, kind, at+1)
				if err := r.of(client).Ensure(t.Context()); err == nil {
					t.Fatalf("Ensure has not needed request %d", at)
				}
				r.ensure()
				r.check(r.talk(r.mount(certs.RoleEngine), certs.RoleController, r.mount(certs.RoleController), certs.RoleEngine))
			})
		}
	}
}

func TestRunKeepsThemInOrder(t *testing.T) {
	r := newRig(t)
	r.ensure()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.authority.Run(ctx) }()
	r.clock.WaitForTimers(1)
	r.check(r.client.CoreV1().Secrets(r.namespace).Delete(t.Context(), authority.SecretOf(certs.RoleGateway), metav1.DeleteOptions{}))
	r.clock.Advance(time.Minute)
	r.clock.WaitForTimers(1)
	r.role(certs.RoleGateway)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
