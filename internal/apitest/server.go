package apitest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/lockstep-csi/lockstep/internal/loopback"
)

// startTimeout is how long one program may take to be ready, on a machine that
// compiles at the same time.
const startTimeout = 2 * time.Minute

// Server is a running API server.
type Server struct {
	dir    string
	token  string // of the administrator
	port   int
	client kubernetes.Interface

	mu          sync.Mutex // guards the fields below
	processes   []*process
	controllers bool
	namespaces  int
}

var shared struct {
	once   sync.Once
	server *Server
	err    error
}

// Main runs the tests of a package and ends what they started. It returns the
// exit code.
func Main(m *testing.M) int {
	defer func() {
		if shared.server != nil {
			shared.server.stop()
		}
	}()
	return m.Run()
}

// Start returns the server that the tests of this binary share, after starting
// it when this is the first call. It skips the test when the programs are not
// built, and fails it when they do not start.
func Start(t testing.TB) *Server {
	t.Helper()
	if _, err := os.Stat(hyper()); err != nil {
		t.Skipf("what the API server decides is not tested: %v; run tests/cluster/cluster build", err)
	}
	shared.once.Do(func() { shared.server, shared.err = run() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server
}

// hyper is the kit's binary.
func hyper() string { return KitPath("libexec", "hyper") }

// KitPath is where `cluster build` puts something: "libexec" and a program's
// name, or "crds" with the definitions of snapshots and group snapshots.
func KitPath(elem ...string) string {
	return filepath.Join(append([]string{kitHome()}, elem...)...)
}

func kitHome() string {
	if home := os.Getenv("CLUSTER_HOME"); home != "" {
		return home
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "/nonexistent"
	}
	return filepath.Join(cache, "lockstep-cluster")
}

func run() (*Server, error) {
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir}
	if err := s.run(); err != nil {
		s.stop()
		return nil, fmt.Errorf("start API server: %w", err)
	}
	return s, nil
}

func (s *Server) run() error {
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	s.token = hex.EncodeToString(secret)
	users := s.token + ",admin,admin,system:masters\n"
	if err := os.WriteFile(s.path("tokens.csv"), []byte(users), 0o600); err != nil {
		return err
	}
	if err := writeKeys(s.path("accounts.key"), s.path("tls.crt"), s.path("tls.key")); err != nil {
		return err
	}
	etcd, err := s.runEtcd()
	if err != nil {
		return err
	}
	return s.runAPIServer(etcd)
}

// runEtcd starts etcd, and returns where its client finds it.
func (s *Server) runEtcd() (string, error) {
	var urls [2]string
	for i := range urls {
		address, err := loopback.Free()
		if err != nil {
			return "", err
		}
		urls[i] = "http://" + address
	}
	_, err := s.start("etcd", "--data-dir="+s.path("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+urls[0], "--advertise-client-urls="+urls[0],
		"--listen-peer-urls="+urls[1], "--initial-advertise-peer-urls="+urls[1],
		"--initial-cluster=default="+urls[1])
	return urls[0], err
}

func (s *Server) runAPIServer(etcd string) error {
	var err error
	if s.port, err = loopback.FreePort(); err != nil {
		return err
	}
	// The service account plugin would refuse pods in namespaces for which no
	// controller has made the default account yet.
	p, err := s.start("kube-apiserver", "--etcd-servers="+etcd,
		"--bind-address="+loopback.Host(), fmt.Sprintf("--secure-port=%d", s.port),
		"--tls-cert-file="+s.path("tls.crt"), "--tls-private-key-file="+s.path("tls.key"),
		"--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=RBAC", "--token-auth-file="+s.path("tokens.csv"),
		"--disable-admission-plugins=ServiceAccount", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+s.path("accounts.key"), "--service-account-signing-key-file="+s.path("accounts.key"),
		"--allow-privileged=true", "--profiling=false", "--v=1")
	if err != nil {
		return err
	}
	if s.client, err = kubernetes.NewForConfig(s.Config()); err != nil {
		return err
	}
	return p.await(func() error {
		_, err := s.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(context.Background())
		return err
	})
}

// StartControllers runs the controller manager's named controllers, the same
// ones for all tests of a binary.
func (s *Server) StartControllers(t testing.TB, names string) {
	t.Helper()
	s.mu.Lock()
	started := s.controllers
	s.controllers = true
	s.mu.Unlock()
	if started {
		return
	}
	config := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"x",
"clusters":[{"name":"x","cluster":{"server":%q,"insecure-skip-tls-verify":true}}],
"users":[{"name":"x","user":{"token":%q}}],"contexts":[{"name":"x","context":{"cluster":"x","user":"x"}}]}`,
		s.Config().Host, s.token)
	if err := os.WriteFile(s.path("kubeconfig"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.start("kube-controller-manager", "--kubeconfig="+s.path("kubeconfig"), "--controllers="+names,
		"--leader-elect=false", "--secure-port=0", "--pvclaimbinder-sync-period=1s", "--profiling=false"); err != nil {
		t.Fatal(err)
	}
}

// Config is how an administrator reaches the server. It may be changed.
func (s *Server) Config() *rest.Config {
	return &rest.Config{
		Host:            fmt.Sprintf("https://%s:%d", loopback.Host(), s.port),
		BearerToken:     s.token,
		TLSClientConfig: rest.TLSClientConfig{CAFile: s.CAFile()},
		QPS:             -1, // no limit
	}
}

// CAFile is the path of the certificate that the server's is verified with.
func (s *Server) CAFile() string { return s.path("tls.crt") }

// Client is an administrator's.
func (s *Server) Client() kubernetes.Interface { return s.client }

// Namespace makes a namespace for one test.
func (s *Server) Namespace(t testing.TB) string {
	t.Helper()
	s.mu.Lock()
	s.namespaces++
	name := fmt.Sprintf("test-%d", s.namespaces)
	s.mu.Unlock()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := s.client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return name
}

func (s *Server) start(name string, args ...string) (*process, error) {
	p, err := start(s.dir, name, args...)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes = append(s.processes, p)
	return p, nil
}

func (s *Server) stop() {
	for _, p := range s.processes {
		p.stop()
	}
	_ = os.RemoveAll(s.dir)
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

// Kubectl runs kubectl as an administrator and returns what it printed.
func (s *Server) Kubectl(t testing.TB, args ...string) (string, error) {
	t.Helper()
	args = append([]string{"kubectl", "--server=" + s.Config().Host, "--token=" + s.token, "--certificate-authority=" + s.CAFile(),
		"--cache-dir=" + s.path("kubectl")}, args...)
	out, err := exec.CommandContext(t.Context(), hyper(), args...).CombinedOutput()
	return string(out), err
}
