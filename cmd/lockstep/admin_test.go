package main

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestErrorsSayWhatToDo gives every code of the admin API and what a person
// reads: one line, and no gRPC in it.
func TestErrorsSayWhatToDo(t *testing.T) {
	cases := []struct {
		code    codes.Code
		message string
		exit    int
		says    string
	}{
		{codes.NotFound, "no group \"x\":\n see group list.", exitFailed, `lockstep: no group "x": see group list` + "\n"},
		{codes.FailedPrecondition, "group x is a replica: use failover", exitFailed, "group x is a replica: use failover"},
		{codes.InvalidArgument, "at is before the horizon", exitUsage, "at is before the horizon"},
		{codes.Aborted, "group x is being rewound", exitFailed, "group x is being rewound; run the command again"},
		{codes.Internal, "read catalog: damaged", exitFailed, "read catalog: damaged (Internal): the site's log says more"},
		{codes.PermissionDenied, "not allowed", exitFailed, "as the user that runs the site"},
		{codes.Unimplemented, "unknown method", exitFailed, "does not know ListGroups"},
		{codes.Unavailable, "shutting down", exitFailed, "went away before it answered (shutting down)"},
		{codes.Unknown, "", exitFailed, "the site gave no reason"},
	}
	for _, c := range cases {
		t.Run(c.code.String(), func(t *testing.T) {
			site := newFakeSite()
			site.fail = status.Error(c.code, c.message)
			got := newShell(site.serve(t)).run(t, "group", "list")
			if got.exit != c.exit || !strings.Contains(got.stderr, c.says) {
				t.Errorf("exit %d, want %d: %q, want %q in it", got.exit, c.exit, got.stderr, c.says)
			}
			if strings.Contains(got.stderr, "rpc error") || got.stdout != "" {
				t.Errorf("stdout %q, stderr %q", got.stdout, got.stderr)
			}
		})
	}
}

func TestNoSiteAnswers(t *testing.T) {
	dir := t.TempDir()
	deserted := filepath.Join(dir, "deserted.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: deserted, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	for name, socket := range map[string]string{"missing": filepath.Join(dir, "no.sock"), "deserted": deserted} {
		t.Run(name, func(t *testing.T) {
			got := newShell("/unused").run(t, "status", "--admin", socket)
			want := "lockstep: no lockstep site answers on " + socket + ": start `lockstep standalone` or pass --admin\n"
			if got.exit != exitFailed || got.stderr != want {
				t.Errorf("exit %d: %q, want %q", got.exit, got.stderr, want)
			}
		})
	}
	t.Run("no directory", func(t *testing.T) {
		got := newShell("/unused").run(t, "status", "--admin", "/dev/null/x")
		if got.exit != exitFailed || !strings.Contains(got.stderr, syscall.ENOTDIR.Error()) {
			t.Errorf("exit %d: %q", got.exit, got.stderr)
		}
	})
}

func TestAdminDefault(t *testing.T) {
	s := newShell("")
	if got := s.must(t, "status", "--help"); !strings.Contains(got, `default "`+defaultAdmin+`"`) {
		t.Errorf("without %s: %q", adminVariable, got)
	}
	s.variables[adminVariable] = "/nowhere/other.sock"
	if got := s.run(t, "status"); !strings.Contains(got.stderr, "/nowhere/other.sock") {
		t.Errorf("with %s: %q", adminVariable, got.stderr)
	}
}

func TestTimeout(t *testing.T) {
	site := newFakeSite()
	site.hang = make(chan struct{})
	s := newShell(site.serve(t))
	got := s.run(t, "group", "list", "--timeout", "20ms")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "did not answer within 20ms") {
		t.Errorf("exit %d: %q", got.exit, got.stderr)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	got = s.runContext(t, ctx, "group", "list")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "interrupted") {
		t.Errorf("interrupted: exit %d: %q", got.exit, got.stderr)
	}
}

func TestWaitForSite(t *testing.T) {
	site := newFakeSite()
	site.unready = 2
	socket := filepath.Join(t.TempDir(), "admin.sock")
	s := newShell(socket)
	done := make(chan outcome, 1)
	go func() { done <- s.run(t, "status", "--wait", "--timeout", "30s", "-o", "name") }()
	site.serveOn(t, socket)
	if got := <-done; got.exit != exitOK || got.stdout != "a\n" {
		t.Fatalf("exit %d: %q %q", got.exit, got.stdout, got.stderr)
	}
	if site.unready != 0 {
		t.Errorf("it did not wait until the group was ready: %d looks left", site.unready)
	}
}

func TestWaitGivesUp(t *testing.T) {
	got := newShell(filepath.Join(t.TempDir(), "no.sock")).run(t, "status", "--wait", "--timeout", "1s")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "no lockstep site answers") {
		t.Errorf("no site: exit %d: %q", got.exit, got.stderr)
	}
	site := newFakeSite()
	site.unready = 1 << 30
	s := newShell(site.serve(t))
	got = s.run(t, "status", "--wait", "--timeout", "2s")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "not ready after 2s: group shop: Recovering: wait for recovery") {
		t.Errorf("never ready: exit %d: %q", got.exit, got.stderr)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// The interrupt comes during the second look, when the first has said why.
	first := true
	site.onLook = func() {
		if !first {
			cancel()
		}
		first = false
	}
	got = s.runContext(t, ctx, "status", "--wait", "--timeout", "0")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "wait for recovery") {
		t.Errorf("interrupted: exit %d: %q", got.exit, got.stderr)
	}
}

func TestWaitAfterFailover(t *testing.T) {
	site := newFakeSite()
	site.unready = 2
	s := newShell(site.serve(t))
	s.must(t, "failover", "shop", "--yes", "--wait", "--timeout", "30s")
	if site.unready != 0 {
		t.Errorf("it did not wait: %d looks left", site.unready)
	}
	// A member that has stopped keeps a group from being ready.
	site.group.Term = 3
	got := s.run(t, "rewind", "start", "shop", "--at", "1236", "--wait", "--timeout", "2s")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "volume pgwal: sync journal: input/output error") {
		t.Errorf("exit %d: %q", got.exit, got.stderr)
	}
}

func TestCompleteGroups(t *testing.T) {
	s := newShell(newFakeSite().serve(t))
	if got := s.must(t, "__complete", "group", "describe", ""); !strings.HasPrefix(got, "shop\n") {
		t.Errorf("got %q", got)
	}
	if got := s.must(t, "__complete", "group", "describe", "shop", ""); strings.HasPrefix(got, "shop\n") {
		t.Errorf("a second group is offered: %q", got)
	}
}
