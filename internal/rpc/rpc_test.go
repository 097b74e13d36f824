package rpc_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/internal/loopback"
	"github.com/lockstep-csi/lockstep/internal/rpc"
)

// A client without a certificate of the accepted role gets no answer, and one
// with it is answered again after the server was away.
func TestDialReconnectsAndIsVerified(t *testing.T) {
	dirs := map[certs.Role]string{}
	authority, err := certs.NewAuthority(time.Now())
	must(t, err)
	for _, role := range []certs.Role{certs.RoleController, certs.RoleEngine, certs.RoleGateway} {
		dirs[role] = t.TempDir()
		id, err := authority.Issue(certs.Request{Site: "a", Role: role, Now: time.Now()})
		must(t, err)
		must(t, id.Save(dirs[role], false))
	}
	config, err := certs.RoleServerTLS(dirs[certs.RoleEngine], certs.RoleController)
	must(t, err)
	address := ""
	serve := func() (stop func()) {
		l, err := net.Listen("tcp", firstOf(address, net.JoinHostPort(loopback.Host(), "0")))
		must(t, err)
		address = l.Addr().String()
		srv := grpc.NewServer(rpc.ServerOptions(config)...)
		healthv1.RegisterHealthServer(srv, health.NewServer())
		ended := make(chan error, 1)
		go func() { ended <- srv.Serve(l) }()
		return func() { srv.Stop(); must(t, <-ended) }
	}
	stop := serve()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	call := func(role certs.Role) error {
		config, err := certs.RoleClientTLS(dirs[role], certs.RoleEngine)
		must(t, err)
		conn, err := rpc.Dial("passthrough:"+address, config)
		must(t, err)
		_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
		if role == certs.RoleController && err == nil {
			stop()
			stop = serve()
			// A call that is sent before the loss is noticed fails by it.
			for _, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil && ctx.Err() == nil; {
				_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}, grpc.WaitForReady(true))
			}
		}
		return errors.Join(err, conn.Close())
	}
	if err := call(certs.RoleController); err != nil {
		t.Errorf("controller: %v", err)
	}
	if err := call(certs.RoleGateway); status.Code(errors.Unwrap(err)) != codes.Unavailable && status.Code(err) != codes.Unavailable {
		t.Errorf("gateway: %v, want that it is not let in", err)
	}
	stop()
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
