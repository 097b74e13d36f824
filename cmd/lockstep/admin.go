package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

const (
	adminVariable  = "LOCKSTEP_ADMIN"
	defaultAdmin   = "/run/lockstep/admin.sock"
	defaultTimeout = time.Minute

	// maxSocketPathBytes is the room in sockaddr_un.sun_path, without the
	// terminating zero (unix(7)).
	maxSocketPathBytes = 107
)

// adminFlags says which site to ask and how long to wait for it.
type adminFlags struct {
	app     *app
	socket  string // not in the plugin
	timeout time.Duration
}

func (f *adminFlags) register(a *app, command *cobra.Command) {
	f.registerSite(a, command)
	command.Flags().DurationVar(&f.timeout, "timeout", defaultTimeout,
		"give up after this long, with the site possibly still at work; 0 waits for ever")
}

// registerSite leaves out how long to wait.
func (f *adminFlags) registerSite(a *app, command *cobra.Command) {
	f.app = a
	if !a.isPlugin() {
		registerAdminSocket(a, command, &f.socket)
	}
}

func registerAdminSocket(a *app, command *cobra.Command, socket *string) {
	command.Flags().StringVar(socket, "admin", a.adminSocket(), "admin socket of the site; "+adminVariable+" sets the default")
}

func (a *app) adminSocket() string {
	if path := a.getenv(adminVariable); path != "" {
		return path
	}
	return defaultAdmin
}

func (f *adminFlags) validate() error {
	if f.timeout < 0 {
		return misuse("--timeout %v is below zero", f.timeout)
	}
	if f.app.isPlugin() {
		return nil
	}
	return validateSocketPath("--admin", f.socket)
}

// route finds the way to the site.
func (f *adminFlags) route() (route, error) {
	if !f.app.isPlugin() {
		return socketRoute(f.socket), nil
	}
	c, err := f.app.inCluster()
	if err != nil {
		return nil, err
	}
	return clusterRoute{c}, nil
}

func validateSocketPath(flag, path string) error {
	if path == "" {
		return misuse("%s is empty: want the path of a Unix socket", flag)
	}
	if len(path) > maxSocketPathBytes {
		return misuse("%s is %d bytes long, and a Unix socket's path has room for %d: use a shorter directory", flag, len(path), maxSocketPathBytes)
	}
	return nil
}

// site is a connection to one site's admin API. Its calls return errors that
// are ready to be shown; see explain.
type site struct {
	adminv1.AdminClient
	conn    *grpc.ClientConn
	route   route
	command string // how this program was called
	timeout time.Duration

	mu      sync.Mutex
	dialErr error // why the last attempt to connect failed; nil when it did not
}

// dial prepares a connection; it is opened by the first call.
func (f *adminFlags) dial() (*site, error) {
	if err := f.validate(); err != nil {
		return nil, err
	}
	way, err := f.route()
	if err != nil {
		return nil, err
	}
	s := &site{route: way, command: f.app.displayName(), timeout: f.timeout}
	conn, err := grpc.NewClient("passthrough:///site",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(s.connect),
		grpc.WithUnaryInterceptor(s.intercept),
		// Short pauses: --wait follows a restart.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: way.patience(),
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("reach the site %s: %w", way.where(), err)
	}
	s.conn = conn
	s.AdminClient = adminv1.NewAdminClient(conn)
	return s, nil
}

// withSite runs fn with a connection that is closed afterwards.
func (f *adminFlags) withSite(fn func(*site) error) error {
	s, err := f.dial()
	if err != nil {
		return err
	}
	// Nothing is lost when closing fails: every call has been answered.
	defer func() { _ = s.conn.Close() }()
	return fn(s)
}

func (s *site) connect(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := s.route.dial(ctx)
	s.mu.Lock()
	s.dialErr = err
	s.mu.Unlock()
	return conn, err
}

// group finds the name that the site has for a group that was asked for.
func (s *site) group(ctx context.Context, argument string) (string, error) {
	return s.route.group(ctx, argument)
}

// groupIfAny is group for an argument that may be left out: then it is empty.
func (s *site) groupIfAny(ctx context.Context, argument string) (string, error) {
	if argument == "" {
		return "", nil
	}
	return s.group(ctx, argument)
}

// intercept gives every call its own time limit, so that the time a person
// takes to answer a question does not count, and explains its error.
func (s *site) intercept(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if s.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.timeout)
		defer cancel()
	}
	if err := invoke(ctx, method, request, reply, conn, opts...); err != nil {
		return s.explainCall(err, method[strings.LastIndex(method, "/")+1:])
	}
	return nil
}

// explainCall is explain for calls that intercept does not see: those with streams, for
// which there is no time limit either.
func (s *site) explainCall(err error, method string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.explain(err, method)
}
