package operator

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/replication"
)

// issue makes a site's certificate of an authority, and returns its folder.
func issue(t *testing.T, a *certs.Authority, site string) string {
	t.Helper()
	identity, err := a.Issue(certs.Request{Site: site, Hosts: []string{"127.0.0.1"}, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := identity.Save(dir, true); err != nil {
		t.Fatal(err)
	}
	return dir
}

// entrance is a gateway that only says who it is.
type entrance struct {
	replicationv1.UnimplementedReplicationServer
}

func (entrance) Identify(context.Context, *replicationv1.IdentifyRequest) (*replicationv1.IdentifyResponse, error) {
	return replication.Identity("v9"), nil
}

// gateway listens as a site until the test ends.
func gateway(t *testing.T, dir string) string {
	t.Helper()
	config, err := certs.ServerTLS(dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
	replicationv1.RegisterReplicationServer(srv, entrance{})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func TestPeers(t *testing.T) {
	ours, err := certs.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := certs.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	here := issue(t, ours, "here")
	good, other, foreign := gateway(t, issue(t, ours, "there")), gateway(t, issue(t, ours, "elsewhere")), gateway(t, issue(t, theirs, "there"))
	p := NewPeers(func(secret string) string { return map[string]string{"mounted": here, "empty": t.TempDir()}[secret] })
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	check := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		version, err := p.check(ctx, "there")
		if err == nil && version != "v9" {
			t.Errorf("the peer's version is %q", version)
		}
		return err
	}
	for _, secret := range []string{"missing", "empty"} {
		if _, err := p.set("there", good, secret); err == nil {
			t.Errorf("a peer without certificates (%s)", secret)
		}
	}
	if _, ok := p.Peer("there"); ok || check() == nil {
		t.Error("a site that nobody named is a peer")
	}
	for _, tt := range []struct {
		name, address string
		connects      bool
	}{{"another site's certificate", other, false}, {"another authority", foreign, false}, {"the site itself", good, true}} {
		changed, err := p.set("there", tt.address, "mounted")
		if err != nil || !changed {
			t.Fatalf("%s: changed %t, %v", tt.name, changed, err)
		}
		if err := check(); (err == nil) != tt.connects {
			t.Errorf("%s: %v", tt.name, err)
		}
		if peer, ok := p.Peer("there"); !ok || peer.Address != tt.address {
			t.Errorf("%s: peer %+v, %t", tt.name, peer, ok)
		}
	}
	if changed, err := p.set("there", good, "mounted"); changed || err != nil {
		t.Errorf("the same again: changed %t, %v", changed, err)
	}
	if changed, err := p.drop("there"); !changed || err != nil {
		t.Errorf("drop: %t, %v", changed, err)
	}
	if _, ok := p.Peer("there"); ok {
		t.Error("a peer that was dropped is one")
	}
}
