package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
	"github.com/lockstep-csi/lockstep/internal/apitest"
)

var update = flag.Bool("update", false, "write the golden files in testdata again")

func TestMain(m *testing.M) { goleak.VerifyTestMain(testRun{m}) }

// testRun ends the API server before leaks are looked for.
type testRun struct{ m *testing.M }

func (r testRun) Run() int { return apitest.Main(r.m) }

// outcome is what one command line did.
type outcome struct {
	exit           int
	stdout, stderr string
}

// shell runs command lines in this process, as a person or a script would.
type shell struct {
	name      string
	stdin     io.Reader
	terminals terminals
	variables map[string]string
	roles     roles
	host      host
	// watch, when set, sees each write to standard error as it happens.
	watch func(text string)
	// openCluster is what the plugin reaches; by default what kubectl would.
	openCluster func(cluster.Options) (*cluster.Cluster, error)
	// stdout is the data of the last run.
	stdout *bytes.Buffer
}

// watchedWriter is standard error with somebody looking at it.
type watchedWriter struct {
	buffer *bytes.Buffer
	watch  func(string)
}

func (w watchedWriter) Write(text []byte) (int, error) {
	if w.watch != nil {
		w.watch(string(text))
	}
	return w.buffer.Write(text)
}

func newShell(socket string) *shell {
	return &shell{
		name: "lockstep", stdin: strings.NewReader(""), variables: map[string]string{adminVariable: socket},
		roles: linkedRoles(), host: thisHost(), openCluster: cluster.Open,
	}
}

func (s *shell) run(t *testing.T, args ...string) outcome {
	t.Helper()
	return s.runContext(t, context.Background(), args...)
}

func (s *shell) runContext(t *testing.T, ctx context.Context, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	s.stdout = &stdout
	a := &app{
		name: s.name, stdin: s.stdin, stdout: &stdout, stderr: watchedWriter{&stderr, s.watch}, terminals: s.terminals,
		getenv: func(name string) string { return s.variables[name] },
		now:    func() time.Time { return epoch },
		roles:  s.roles, host: s.host,

		openCluster: s.openCluster,
	}
	exit := a.run(ctx, args)
	return outcome{exit, stdout.String(), stderr.String()}
}

// must runs a command line that has to succeed and returns its data.
func (s *shell) must(t *testing.T, args ...string) string {
	t.Helper()
	got := s.run(t, args...)
	if got.exit != exitOK {
		t.Fatalf("lockstep %s: exit %d: %s", strings.Join(args, " "), got.exit, got.stderr)
	}
	return got.stdout
}

// golden compares text with testdata/name.golden; -update writes it.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s differs.\n--- want\n%s\n--- got\n%s", path, want, text)
	}
}
