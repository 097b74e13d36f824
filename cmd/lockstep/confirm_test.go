package main

import (
	"context"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

var atTerminal = terminals{stdin: true, stdout: true, stderr: true}

func TestConfirmation(t *testing.T) {
	cases := map[string]struct {
		answer string
		done   bool
	}{
		"y":           {"y\n", true},
		"YES":         {"YES\n", true},
		"n":           {"n\n", false},
		"enter":       {"\n", false},
		"end of file": {"", false},
		"y, no enter": {"y", true},
		"other":       {"yep\n", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			site := newFakeSite()
			s := newShell(site.serve(t))
			s.terminals, s.stdin = atTerminal, strings.NewReader(c.answer)
			got := s.run(t, "failover", "shop")
			if !strings.Contains(got.stderr, "checkpoint 1240, 0s ago") || !strings.Contains(got.stderr, "or newer, with term 4?") {
				t.Errorf("the question does not say what would happen: %q", got.stderr)
			}
			if done := site.group.GetTerm() == 4; done != c.done {
				t.Errorf("failed over: %v, want %v", done, c.done)
			}
			if want := map[bool]int{true: exitOK, false: exitFailed}[c.done]; got.exit != want {
				t.Errorf("exit %d, want %d: %s", got.exit, want, got.stderr)
			}
			if !c.done && !strings.Contains(got.stderr, errDeclined.Error()) {
				t.Errorf("stderr %q", got.stderr)
			}
		})
	}
}

// What somebody has confirmed is what is done: the point that was shown, whatever a time
// means by then.
func TestAFailoverIsToThePointThatWasConfirmed(t *testing.T) {
	shown := epoch.Add(-3 * time.Second).Format(time.RFC3339Nano)
	for at, want := range map[string]string{"latest": "latest", "1236": "1236", shown: "1237"} {
		site := newFakeSite()
		s := newShell(site.serve(t))
		s.terminals, s.stdin = atTerminal, strings.NewReader("y\n")
		if got := s.run(t, "failover", "shop", "--at", at); got.exit != exitOK || site.failedOverTo != want {
			t.Errorf("--at %s: exit %d, at %q, want %q: %s", at, got.exit, site.failedOverTo, want, got.stderr)
		}
	}
}

func TestConfirmRewindCommit(t *testing.T) {
	site := newFakeSite()
	s := newShell(site.serve(t))
	s.must(t, "rewind", "start", "shop", "--at", "1236")

	// Half a terminal is not enough to ask at.
	s.terminals = terminals{stdin: true}
	if got := s.run(t, "rewind", "commit", "shop"); got.exit != exitUsage || site.group.GetRewind() == nil {
		t.Fatalf("without a terminal for the question: exit %d, rewind %v", got.exit, site.group.GetRewind())
	}
	s.terminals, s.stdin = atTerminal, strings.NewReader("no\n")
	if got := s.run(t, "rewind", "commit", "shop"); got.exit != exitFailed || site.group.GetRewind() == nil {
		t.Fatalf("after no: exit %d, rewind %v", got.exit, site.group.GetRewind())
	}
	s.stdin = strings.NewReader("y\n")
	if got := s.run(t, "rewind", "commit", "shop"); got.exit != exitOK || site.group.GetRewind() != nil {
		t.Fatalf("after yes: exit %d, rewind %v: %s", got.exit, site.group.GetRewind(), got.stderr)
	}
	// Nothing to commit: no question is asked about it.
	s.stdin = strings.NewReader("y\n")
	if got := s.run(t, "rewind", "commit", "shop"); got.exit != exitFailed || strings.Contains(got.stderr, "[y/N]") {
		t.Errorf("exit %d: %s", got.exit, got.stderr)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	site := newFakeSite()
	s := newShell(site.serve(t))
	s.must(t, "rewind", "start", "shop", "--at", "1236", "--dry-run")
	if site.group.GetRewind() != nil {
		t.Fatal("rewind start --dry-run rewound")
	}
	s.must(t, "rewind", "start", "shop", "--at", "1236")
	s.must(t, "rewind", "commit", "shop", "--dry-run")
	s.must(t, "rewind", "undo", "shop", "--dry-run")
	if site.group.GetRewind() == nil {
		t.Error("a dry run ended the rewind")
	}
	s.must(t, "failover", "shop", "--dry-run")
	if site.group.GetTerm() != 3 {
		t.Error("failover --dry-run failed over")
	}
}

// TestAFailoverNamesWhatItLeavesOut, before anybody confirms it.
func TestAFailoverNamesWhatItLeavesOut(t *testing.T) {
	site := newFakeSite()
	site.group.Role, site.absent = adminv1.Role_ROLE_REPLICA, true
	s := newShell(site.serve(t))
	for _, args := range [][]string{{"failover", "shop", "--dry-run"}, {"failover", "shop", "--yes", "-o", "json"}} {
		got := s.run(t, args...)
		if got.exit != exitOK || !strings.Contains(got.stderr, "nothing has arrived here of pgwal (v-2c3d)") || strings.Contains(got.stderr, "pgdata") {
			t.Errorf("%v: exit %d: %s", args, got.exit, got.stderr)
		}
	}
}

func TestInterruptedQuestion(t *testing.T) {
	site := newFakeSite()
	s := newShell(site.serve(t))
	reader, writer := io.Pipe()
	s.terminals = atTerminal
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// The first read is the question being waited at.
	s.stdin = readerFunc(func(b []byte) (int, error) {
		cancel()
		return reader.Read(b)
	})
	got := s.runContext(t, ctx, "failover", "shop")
	_ = writer.Close() // lets the reading goroutine go
	if got.exit != exitFailed || !strings.Contains(got.stderr, errInterrupted.Error()) || site.group.GetTerm() != 3 {
		t.Errorf("exit %d, term %d: %s", got.exit, site.group.GetTerm(), got.stderr)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func closeFile(t *testing.T, file *os.File) {
	t.Helper()
	if err := file.Close(); err != nil {
		t.Error(err)
	}
}

// TestIsTerminal asks about a real pseudo-terminal.
func TestIsTerminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("terminals not tested, no pseudo-terminal: %v", err)
	}
	defer closeFile(t, master)
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, slave)
	if !isTerminal(slave) {
		t.Error("a pseudo-terminal is not recognised")
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, read)
	defer closeFile(t, write)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, null)
	if isTerminal(read) || isTerminal(null) {
		t.Error("a pipe or /dev/null passes for a terminal")
	}
}
