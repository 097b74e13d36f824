package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// handshake is what each end of a connection made of it.
type handshake struct {
	serverErr, clientErr error
	// serverSaw and clientSaw are the names that each proved to the other.
	serverSaw, clientSaw string
}

// shakeHands connects client to server over a real TCP connection.
func shakeHands(t *testing.T, server, client *tls.Config) handshake {
	t.Helper()
	var h handshake
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := listener.Accept()
		if err != nil {
			h.serverErr = err
			return
		}
		conn := tls.Server(raw, server)
		if h.serverErr = conn.Handshake(); h.serverErr == nil {
			h.serverSaw, h.serverErr = SiteFromCert(conn.ConnectionState().PeerCertificates[0])
			_, _ = conn.Write([]byte("!"))
		}
		_ = conn.Close()
	}()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, client)
	if h.clientErr = conn.Handshake(); h.clientErr == nil {
		// In TLS 1.3 a client learns only from its first read whether the
		// server accepted its certificate.
		_, h.clientErr = io.ReadFull(conn, make([]byte, 1))
		h.clientSaw, _ = SiteFromCert(conn.ConnectionState().PeerCertificates[0])
	}
	_ = conn.Close()
	<-done
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	return h
}

func mustServer(t *testing.T, dir string, sites ...string) *tls.Config {
	t.Helper()
	config, err := ServerTLS(dir, sites...)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func mustClient(t *testing.T, dir, site string) *tls.Config {
	t.Helper()
	config, err := ClientTLS(dir, site)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestHandshakeBetweenTwoSites(t *testing.T) {
	in := newInstallation(t)
	a, b := in.issue(t, Request{Site: "a"}), in.issue(t, Request{Site: "b"})
	h := shakeHands(t, mustServer(t, b, "a"), mustClient(t, a, "b"))
	if h.serverErr != nil || h.clientErr != nil {
		t.Fatalf("server: %v, client: %v", h.serverErr, h.clientErr)
	}
	if h.serverSaw != "a" || h.clientSaw != "b" {
		t.Errorf("server saw %q, client saw %q", h.serverSaw, h.clientSaw)
	}
}

func TestServerRefuses(t *testing.T) {
	in, stranger := newInstallation(t), newInstallation(t)
	server := in.issue(t, Request{Site: "b"})
	ended := Request{Site: "ended", Now: time.Now().AddDate(-2, 0, 0)}

	t.Run("another site", func(t *testing.T) {
		client := in.issue(t, Request{Site: "c"})
		h := shakeHands(t, mustServer(t, server, "a"), mustClient(t, client, "b"))
		if !errors.Is(h.serverErr, ErrWrongSite) || h.clientErr == nil {
			t.Errorf("server: %v (want ErrWrongSite), client: %v (want an error)", h.serverErr, h.clientErr)
		}
	})
	t.Run("a site of another authority", func(t *testing.T) {
		client := stranger.issue(t, Request{Site: "a"})
		// The client trusts the server; only the server has a reason to refuse.
		if err := writeFile(filepath.Join(client, AuthorityFile), encodeCert(in.authority.Cert), certMode); err != nil {
			t.Fatal(err)
		}
		h := shakeHands(t, mustServer(t, server), mustClient(t, client, "b"))
		var unknown x509.UnknownAuthorityError
		if !errors.As(h.serverErr, &unknown) || h.clientErr == nil {
			t.Errorf("server: %v (want unknown authority), client: %v (want an error)", h.serverErr, h.clientErr)
		}
	})
	t.Run("an expired certificate", func(t *testing.T) {
		client := in.issue(t, ended)
		h := shakeHands(t, mustServer(t, server), mustClient(t, client, "b"))
		if !isExpired(h.serverErr) || h.clientErr == nil {
			t.Errorf("server: %v (want expired), client: %v (want an error)", h.serverErr, h.clientErr)
		}
	})
	t.Run("no certificate", func(t *testing.T) {
		client := mustClient(t, in.issue(t, Request{Site: "a"}), "b")
		client.GetClientCertificate = nil
		h := shakeHands(t, mustServer(t, server), client)
		if h.serverErr == nil || h.clientErr == nil {
			t.Errorf("server: %v, client: %v; want errors", h.serverErr, h.clientErr)
		}
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		client := mustClient(t, in.issue(t, Request{Site: "a"}), "b")
		client.MinVersion, client.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		if h := shakeHands(t, mustServer(t, server), client); h.serverErr == nil {
			t.Error("TLS 1.2 was accepted")
		}
	})
}

func TestClientRefuses(t *testing.T) {
	in, stranger := newInstallation(t), newInstallation(t)
	client := in.issue(t, Request{Site: "a"})

	t.Run("another site", func(t *testing.T) {
		server := in.issue(t, Request{Site: "c"})
		h := shakeHands(t, mustServer(t, server), mustClient(t, client, "b"))
		if !errors.Is(h.clientErr, ErrWrongSite) {
			t.Errorf("client: %v, want ErrWrongSite (server: %v)", h.clientErr, h.serverErr)
		}
	})
	t.Run("a site of another authority", func(t *testing.T) {
		server := stranger.issue(t, Request{Site: "b"})
		h := shakeHands(t, mustServer(t, server), mustClient(t, client, "b"))
		var unknown x509.UnknownAuthorityError
		if !errors.As(h.clientErr, &unknown) {
			t.Errorf("client: %v, want unknown authority", h.clientErr)
		}
	})
	t.Run("an expired certificate", func(t *testing.T) {
		server := in.issue(t, Request{Site: "b", Now: time.Now().AddDate(-2, 0, 0)})
		h := shakeHands(t, mustServer(t, server), mustClient(t, client, "b"))
		if !isExpired(h.clientErr) {
			t.Errorf("client: %v, want expired", h.clientErr)
		}
	})
	t.Run("a bad name to want", func(t *testing.T) {
		if _, err := ClientTLS(client, ""); !errors.Is(err, ErrSiteName) {
			t.Errorf("got %v, want ErrSiteName", err)
		}
	})
}

func isExpired(err error) bool {
	var invalid x509.CertificateInvalidError
	return errors.As(err, &invalid) && invalid.Reason == x509.Expired
}

// TestReload renews an expired certificate, then replaces the authority, under
// configurations that stay in use.
func TestReload(t *testing.T) {
	in := newInstallation(t)
	a := in.issue(t, Request{Site: "a", Now: time.Now().AddDate(-2, 0, 0)})
	b := in.issue(t, Request{Site: "b"})
	server, client := mustServer(t, b), mustClient(t, a, "b")
	if h := shakeHands(t, server, client); !isExpired(h.serverErr) {
		t.Fatalf("before the renewal: %v, want expired", h.serverErr)
	}
	in.issue(t, Request{Site: "a"})
	if h := shakeHands(t, server, client); h.serverErr != nil || h.clientErr != nil {
		t.Fatalf("after the renewal: server %v, client %v", h.serverErr, h.clientErr)
	}

	// Both sites move to another authority, one after the other.
	next := &installation{root: in.root, authority: newInstallation(t).authority}
	next.issue(t, Request{Site: "a"})
	if h := shakeHands(t, server, client); h.serverErr == nil && h.clientErr == nil {
		t.Fatal("sites of two authorities accepted each other")
	}
	next.issue(t, Request{Site: "b"})
	if h := shakeHands(t, server, client); h.serverErr != nil || h.clientErr != nil {
		t.Fatalf("after the new authority: server %v, client %v", h.serverErr, h.clientErr)
	}
}

// TestReloadKeepsLastGood replaces the files by ones that do not load, as a
// renewal that is half done or went wrong does.
func TestReloadKeepsLastGood(t *testing.T) {
	in := newInstallation(t)
	a, b := in.issue(t, Request{Site: "a"}), in.issue(t, Request{Site: "b"})
	server, client := mustServer(t, b), mustClient(t, a, "b")
	other, err := in.authority.Issue(Request{Site: "b", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	breaks := map[string]func(path string) error{
		"certificate without its key": func(string) error {
			return writeFile(filepath.Join(b, CertFile), encodeCert(other.Cert), certMode)
		},
		"cut short": func(path string) error { return os.Truncate(path, 10) },
		"missing":   os.Remove,
	}
	for _, name := range []string{"certificate without its key", "cut short", "missing"} {
		t.Run(name, func(t *testing.T) {
			if err := breaks[name](filepath.Join(b, CertFile)); err != nil {
				t.Fatal(err)
			}
			if _, err := ServerTLS(b); err == nil {
				t.Fatal("the broken files load, so this case tests nothing")
			}
			if h := shakeHands(t, server, client); h.serverErr != nil || h.clientErr != nil {
				t.Fatalf("server %v, client %v", h.serverErr, h.clientErr)
			}
		})
	}
}

func TestLoadNamesTheMissingFile(t *testing.T) {
	in := newInstallation(t)
	dir := in.issue(t, Request{Site: "a"})
	for _, name := range []string{KeyFile, CertFile, AuthorityFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		_, err := ServerTLS(dir)
		if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// TestGRPC shows that the configurations work under gRPC, which clones them and
// sets names and protocols of its own.
func TestGRPC(t *testing.T) {
	in := newInstallation(t)
	a, b := in.issue(t, Request{Site: "a"}), in.issue(t, Request{Site: "b"})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(mustServer(t, b, "a"))))
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()

	call := func(want string) error {
		conn, err := grpc.NewClient(listener.Addr().String(),
			grpc.WithTransportCredentials(credentials.NewTLS(mustClient(t, a, want))))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err = grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		return err
	}
	if err := call("b"); err != nil {
		t.Errorf("call to site b: %v", err)
	}
	if err := call("c"); err == nil {
		t.Error("a call meant for site c was answered by site b")
	}
}

// TestHandshakesDuringRenewal renews both sites again and again under a running
// pair. Certificate and key are replaced one after the other, so handshakes fall
// between the two; none may fail.
func TestHandshakesDuringRenewal(t *testing.T) {
	in := newInstallation(t)
	a, b := in.issue(t, Request{Site: "a"}), in.issue(t, Request{Site: "b"})
	server, client := mustServer(t, b), mustClient(t, a, "b")
	renewals := make(chan error, 1)
	go func() {
		for range 50 {
			for site, dir := range map[string]string{"a": a, "b": b} {
				id, err := in.authority.Issue(Request{Site: site, Now: time.Now()})
				if err == nil {
					err = id.Save(dir, true)
				}
				if err != nil {
					renewals <- err
					return
				}
			}
		}
		renewals <- nil
	}()
	for n := 0; ; n++ {
		h := shakeHands(t, server, client)
		if h.serverErr != nil || h.clientErr != nil {
			t.Errorf("handshake %d: server %v, client %v", n, h.serverErr, h.clientErr)
		}
		select {
		case err := <-renewals:
			if err != nil {
				t.Error(err)
			}
			if n < 2 {
				t.Errorf("only %d handshakes took place during the renewals", n)
			}
			return
		default:
		}
	}
}
