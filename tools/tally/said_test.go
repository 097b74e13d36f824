package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// stream is what test2json makes of a test that prints output and fails.
func stream(t *testing.T, output string) string {
	t.Helper()
	events := []event{{Action: "run", Package: "p", Test: "A"}}
	for line := range strings.Lines(output) {
		events = append(events, event{Action: "output", Package: "p", Test: "A", Output: line})
	}
	events = append(events, event{Action: "fail", Package: "p", Test: "A"}, event{Action: "fail", Package: "p"})
	var b strings.Builder
	for _, e := range events {
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
		b.WriteString("\n")
	}
	return b.String()
}

// TestReasonsLast checks that the last lines say why a test failed, whatever it prints
// after that, and nothing else.
func TestReasonsLast(t *testing.T) {
	const (
		failure = "    a_test.go:7: holds 3,\n        \n        want 4\n"
		dump    = "    ---- cluster a\n    event Pulled: b.go:7: image\n      log of node:\n        I1126 main.go:12] starts\n    ---- end\n"
		cleanup = "    namespace.go:61: clean up: it is there still\n"
	)
	long := strings.Repeat("x", 2*maxLineBytes)
	var many, newest strings.Builder
	for i := range maxMessages + 3 {
		line := fmt.Sprintf("    a_test.go:7: round %d\n", i)
		many.WriteString(line)
		if i >= 3 {
			newest.WriteString(line)
		}
	}
	for _, c := range []struct{ name, output, want string }{
		{"the lines of an assertion", "=== RUN   A\n" + failure + "--- FAIL: A (1.00s)\n", failure},
		{"a dump is left out", failure + dump + cleanup, failure + cleanup},
		{"what the process prints is left out", "hello\n        deep\n" + failure + "PASS: no\n", failure},
		{"nothing said", "hello\n", "    it did not say why\n"},
		{"a panic with where it was", failure + "--- FAIL: A (0.00s)\npanic: oops\n\ngoroutine 7 [running]:\np.A()\n", failure + "panic: oops\n\ngoroutine 7 [running]:\np.A()\n"},
		{"a long line is cut", "    a.go:1: " + long + "\n", "    a.go:1: " + long[:maxLineBytes-len("    a.go:1: ")] + "…\n"},
		{"a long message is cut", "    a.go:1: x\n" + strings.Repeat("        y\n", maxMessageLines+5), "    a.go:1: x\n" + strings.Repeat("        y\n", maxMessageLines-1) + "        …\n"},
		{"of many messages the newest", many.String(), "    … 3 messages before\n" + newest.String()},
	} {
		for _, live := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, live %t", c.name, live), func(t *testing.T) {
				var out strings.Builder
				if err := run(strings.NewReader(stream(t, c.output)), &out, "", live); err == nil {
					t.Error("no error for a test that failed")
				}
				want := "FAIL p: 1 of 1 tests failed in 0.0 s\nfailed: A (p)\n" + c.want + "0 passed, 1 failed, 0 skipped\n"
				if !strings.HasSuffix(out.String(), want) {
					t.Errorf("report is\n%s\nand has to end with\n%s", out.String(), want)
				}
			})
		}
	}
}

// TestReasonsOutsideOfTests checks that what a package says that fails without a failed
// test is there at the end, with a margin that keeps it from being taken for a count.
func TestReasonsOutsideOfTests(t *testing.T) {
	const events = `{"Action":"run","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Output":"e2e: left behind: namespaces x\n"}
{"Action":"output","Package":"p","Output":"1 passed, 0 failed, 0 skipped\n"}
{"Action":"fail","Package":"p"}
{"ImportPath":"q","Action":"build-output","Output":"q.go:1: syntax error\n"}
{"ImportPath":"q","Action":"build-fail"}
`
	want := "failed: p\n    e2e: left behind: namespaces x\n    1 passed, 0 failed, 0 skipped\n" +
		"failed: build of q\n    q.go:1: syntax error\n1 passed, 1 failed, 0 skipped\n"
	for _, live := range []bool{false, true} {
		var out strings.Builder
		if err := run(strings.NewReader(events), &out, "", live); err == nil {
			t.Error("no error for a package that failed")
		}
		if !strings.HasSuffix(out.String(), want) {
			t.Errorf("live %t: report is\n%s\nand has to end with\n%s", live, out.String(), want)
		}
	}
}

// TestSaidInPieces checks that a line which test2json hands on in pieces is one.
func TestSaidInPieces(t *testing.T) {
	var s said
	for _, piece := range []string{"    a_test", ".go:7: hal", "ves\n", "        more\n"} {
		s.add(piece)
	}
	if got, want := s.text(), "    a_test.go:7: halves\n        more\n"; got != want {
		t.Errorf("kept %q, want %q", got, want)
	}
}

// TestReasonsBounded checks that very many failures do not make a long end.
func TestReasonsBounded(t *testing.T) {
	tests := newTally(&strings.Builder{})
	for i := range 100 {
		n := name{"p", fmt.Sprintf("Test%d", i)}
		tests.add(event{Action: "run", Package: n.pkg, Test: n.test})
		tests.add(event{Action: "output", Package: n.pkg, Test: n.test, Output: "    a_test.go:7: " + strings.Repeat("x", maxLineBytes/2) + "\n"})
		tests.add(event{Action: "fail", Package: n.pkg, Test: n.test})
	}
	got := tests.reasons.String()
	if len(got) > maxReasonBytes+100*40 {
		t.Errorf("the reasons have %d bytes", len(got))
	}
	if !strings.HasSuffix(got, "failed: Test99 (p)\n    see above\n") {
		t.Errorf("the last test is not named: …%q", got[len(got)-100:])
	}
}
