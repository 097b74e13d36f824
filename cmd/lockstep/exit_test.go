package main

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func TestExitStatus(t *testing.T) {
	s := newShell(newFakeSite().serve(t))
	cases := []struct {
		args string
		exit int
		says string // in standard error
	}{
		{"group list", exitOK, ""},
		{"--help", exitOK, ""},
		{"help output", exitOK, ""},
		{"completion bash", exitOK, ""},
		{"version", exitOK, ""},

		{"group describe nope", exitFailed, `no group "nope": groups here are shop`},
		{"rewind undo shop", exitFailed, "start one with rewind start"},
		{"view close view-9", exitFailed, `no view "view-9"`},
		{"fork discard nope", exitFailed, `no fork "nope"`},
		{"fork commit shop nope --yes", exitFailed, `no fork "nope"`},
		{"fork commit shop nope", exitUsage, "pass --yes"},
		{"fork commit shop", exitUsage, "NAME is missing"},
		{"rewind start shop --at 9", exitFailed, "the nearest are 1240 and 1231"},

		{"", exitUsage, "a command is missing"},
		{"grup list", exitUsage, "did you mean group?"},
		{"group", exitUsage, "one of describe, list"},
		{"group lst", exitUsage, "did you mean list?"},
		{"rewind strat shop", exitUsage, "did you mean start?"},
		{"certs isue", exitUsage, "did you mean issue?"},
		{"group list --frob", exitUsage, "unknown flag: --frob"},
		{"group list extra", exitUsage, "takes no arguments"},
		{"group describe", exitUsage, "GROUP is missing"},
		{"group describe a b", exitUsage, `unexpected argument "b" after GROUP`},
		{"group list -o xml", exitUsage, "want one of table, wide, json, yaml, name"},
		{"group list --timeout -1s", exitUsage, "below zero"},
		{"group list --timeout soon", exitUsage, "invalid argument"},
		{"group list --admin " + strings.Repeat("x", 108), exitUsage, "has room for 107"},
		{"rewind start shop", exitUsage, "--at is missing"},
		{"rewind start shop --at yesterday", exitUsage, "want an RFC 3339 time"},
		{"rewind start shop --at latest --dry-run --wait", exitUsage, "wait"},
		{"rewind commit shop", exitUsage, "pass --yes"},
		{"failover shop", exitUsage, "pass --yes"},
		{"point list shop --limit 0", exitUsage, "want 1 to 10000"},
		{"point list shop --limit 10001", exitUsage, "want 1 to 10000"},
		{"point list shop --from 2026-11-22T10:00:00Z --since 1m", exitUsage, "from since"},
		{"point list shop --from 2026-11-22T10:00:00Z --to 2026-11-22T09:00:00Z", exitUsage, "after its end"},
		{"point list shop --from tomorrow", exitUsage, `--from "tomorrow"`},
		{"point take shop --pin=", exitUsage, "--pin is empty"},
		{"point drop shop", exitUsage, "PIN is missing"},
		{"volume reopen", exitUsage, "VOLUME is missing"},
		{"volume adopt", exitUsage, "STORE is missing"},
		{"volume adopt x --name taken", exitFailed, "volume exists"},
		{"view open shop --at pin:", exitUsage, "names no pin"},
		{"fork create shop", exitUsage, "NAME is missing"},
		{"fork create shop x --quota much", exitUsage, "want a size such as 20Gi"},
		{"fork create shop x --max-age 0s", exitUsage, "want a time such as 4h"},
		{"journal dump", exitUsage, "STORE is missing"},
		{"journal dump d -o yaml", exitUsage, "want one of text, json, jsonl"},
		{"journal dump d --from 9", exitUsage, "want TIMELINE/SEQ"},
		{"journal export d", exitUsage, "TARGET is missing"},
		{"journal export d t --at yesterday", exitUsage, "not understood"},
		{"journal export d t --at x/y", exitUsage, "want TIMELINE/SEQ"},
		{"journal drain d", exitUsage, "pass --yes"},
		{"journal import i", exitUsage, "STORE is missing"},
		{"holder --socket s", exitUsage, "--dir is missing"},
	}
	for _, c := range cases {
		t.Run(c.args, func(t *testing.T) {
			got := s.run(t, strings.Fields(c.args)...)
			if got.exit != c.exit || !strings.Contains(got.stderr, c.says) {
				t.Fatalf("exit %d, want %d; stderr %q, want %q in it", got.exit, c.exit, got.stderr, c.says)
			}
			if c.exit != exitOK && got.stdout != "" {
				t.Errorf("a failure wrote data: %q", got.stdout)
			}
			if hint := strings.Contains(got.stderr, "--help`"); hint != (c.exit == exitUsage) {
				t.Errorf("exit %d, hint at --help: %v", got.exit, hint)
			}
		})
	}
}

func TestPluginName(t *testing.T) {
	s := newPlugin(t).shell
	for _, args := range [][]string{{"--help"}, {"group", "--help"}} {
		if got := s.must(t, args...); !strings.Contains(got, "kubectl lockstep ") || strings.Contains(got, "  lockstep ") {
			t.Errorf("%v: usage is not that of a plugin:\n%s", args, got)
		}
	}
	for _, args := range [][]string{{"point", "list", "--help"}, {"view", "open", "--help"}, {"rewind", "start", "--help"}} {
		if got := s.must(t, args...); !strings.Contains(got, "  kubectl lockstep "+args[0]) || strings.Contains(got, "  lockstep ") {
			t.Errorf("%v: examples are not those of a plugin:\n%s", args, got)
		}
	}
	if got := s.run(t, "nope"); !strings.HasPrefix(got.stderr, "kubectl lockstep: unknown command") {
		t.Errorf("stderr %q", got.stderr)
	}
}

// TestSuggestedCommandsWork types what a page suggests, for a site that is not
// the default one.
func TestSuggestedCommandsWork(t *testing.T) {
	socket := newFakeSite().serve(t)
	s := newShell("/nowhere/admin.sock")
	started := s.run(t, "rewind", "start", "shop", "--at", "1236", "--admin", socket)
	if started.exit != exitOK {
		t.Fatal(started.stderr)
	}
	_, undo, found := strings.Cut(started.stderr, "to go back:  lockstep ")
	if !found {
		t.Fatalf("no suggestion in %q", started.stderr)
	}
	undo, _, _ = strings.Cut(undo, "\n")
	s.must(t, strings.Fields(undo)...)
	if got := s.run(t, "rewind", "undo", "shop", "--admin", socket); got.exit != exitFailed {
		t.Errorf("the suggested undo did nothing: a second one has exit %d", got.exit)
	}
}

// TestNamesAreArguments passes what -o name prints to another command.
func TestNamesAreArguments(t *testing.T) {
	s := newShell(newFakeSite().serve(t))
	name := func(args ...string) string {
		return strings.TrimSpace(s.must(t, append(args, "-o", "name")...))
	}
	group := name("group", "list")
	point := name("point", "take", group)
	view := name("view", "open", group, "--at", point)
	s.must(t, "view", "close", view)
	if got := name("rewind", "start", group, "--at", point); got != point {
		t.Errorf("rewound to %q, want %q", got, point)
	}
}

// TestPastedTimeMeansItsPoint guards the rounding of times in tables.
func TestPastedTimeMeansItsPoint(t *testing.T) {
	s := newShell(newFakeSite().serve(t))
	lines := strings.Split(strings.TrimSpace(s.must(t, "point", "list", "shop")), "\n")[1:]
	if len(lines) != 10 {
		t.Fatalf("%d points, want 10", len(lines))
	}
	for _, line := range lines {
		columns := strings.Fields(line)
		got := s.must(t, "rewind", "start", "shop", "--dry-run", "--at", columns[1], "-o", "name")
		if got != columns[0]+"\n" {
			t.Errorf("--at %s means checkpoint %q, want %s", columns[1], got, columns[0])
		}
	}
}

// brokenWriter fails as a pipe whose reader has gone does.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestUnwrittenOutputIsAFailure(t *testing.T) {
	a := &app{stdout: brokenWriter{}, getenv: func(string) string { return "" }}
	err := a.print(&outputFlag{form: formName}, result{names: []string{"x"}})
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
}

// TestFlagUsages guards against back quotes in a flag's text: pflag takes what
// is between them for the name of the value.
func TestFlagUsages(t *testing.T) {
	root := (&app{getenv: func(string) string { return "" }}).newRootCommand()
	seen := 0
	var walk func(*cobra.Command)
	walk = func(command *cobra.Command) {
		command.Flags().VisitAll(func(f *pflag.Flag) {
			seen++
			if strings.Contains(f.Usage, "`") || f.Usage == "" {
				t.Errorf("`%s`: --%s: usage %q", command.CommandPath(), f.Name, f.Usage)
			}
		})
		for _, child := range command.Commands() {
			walk(child)
		}
	}
	walk(root)
	if seen < 50 {
		t.Errorf("only %d flags were looked at", seen)
	}
}
