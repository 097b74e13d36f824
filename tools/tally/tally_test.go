package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTally(t *testing.T) {
	const start = `{"Action":"start","Package":"p"}` + "\n"
	for _, c := range []struct {
		name   string
		stream string
		line   string
		says   string // that the report must contain
		fails  bool
	}{
		{name: "a test without subtests counts",
			stream: start + `{"Action":"run","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Elapsed":1.5}`,
			line: "1 passed, 0 failed, 0 skipped", says: "ok   p: 1 tests in 1.5 s"},
		{name: "subtests count in place of their parent",
			stream: start + `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/x"}
{"Action":"run","Package":"p","Test":"A/y"}
{"Action":"pass","Package":"p","Test":"A/x"}
{"Action":"output","Package":"p","Test":"A/y","Output":"y broke\n"}
{"Action":"fail","Package":"p","Test":"A/y"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`,
			line: "1 passed, 1 failed, 0 skipped", says: "y broke", fails: true},
		{name: "a parent that fails by itself counts",
			stream: start + `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/x"}
{"Action":"pass","Package":"p","Test":"A/x"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`,
			line: "1 passed, 1 failed, 0 skipped", fails: true},
		{name: "a skip is named with its reason",
			stream: start + `{"Action":"run","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"B"}
{"Action":"output","Package":"p","Test":"B","Output":"=== RUN   B\n"}
{"Action":"output","Package":"p","Test":"B","Output":"    b_test.go:7: not tested: mounts; needs root\n"}
{"Action":"output","Package":"p","Test":"B","Output":"--- SKIP: B (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"B"}
{"Action":"pass","Package":"p"}`,
			line: "1 passed, 0 failed, 1 skipped", says: "SKIP p B: b_test.go:7: not tested: mounts; needs root"},
		{name: "a package that does not build is a failure",
			stream: `{"ImportPath":"p","Action":"build-output","Output":"p.go:1: syntax error\n"}
{"ImportPath":"p","Action":"build-fail"}
` + start + `{"Action":"fail","Package":"p"}`,
			line: "0 passed, 1 failed, 0 skipped", says: "syntax error", fails: true},
		{name: "a test whose process died is a failure",
			stream: start + `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/x"}
{"Action":"output","Package":"p","Output":"panic: gone\n"}
{"Action":"fail","Package":"p"}`,
			line: "0 passed, 1 failed, 0 skipped", says: "panic: gone", fails: true},
		{name: "a stream that breaks off is a failure",
			stream: start + `{"Action":"run","Package":"p","Test":"A"}`,
			line:   "0 passed, 1 failed, 0 skipped", fails: true},
		{name: "no test at all is a failure", stream: "", line: "0 passed, 0 failed, 0 skipped", fails: true},
		{name: "what is no event is passed on",
			stream: "go: cannot find module\n", line: "0 passed, 0 failed, 0 skipped", says: "go: cannot find module", fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			err := run(strings.NewReader(c.stream), &out, "", false)
			if (err != nil) != c.fails {
				t.Errorf("run: %v, want an error: %t", err, c.fails)
			}
			if !strings.HasSuffix(out.String(), c.line+"\n") {
				t.Errorf("report ends otherwise than with %q:\n%s", c.line, out.String())
			}
			if !strings.Contains(out.String(), c.says) {
				t.Errorf("report lacks %q:\n%s", c.says, out.String())
			}
		})
	}
}

func TestSummaryFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "summary")
	var out strings.Builder
	stream := `{"Action":"run","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"A"}`
	if err := run(strings.NewReader(stream), &out, file, false); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := "1 passed, 0 failed, 0 skipped\n"; string(got) != want {
		t.Errorf("summary is %q, want %q", got, want)
	}
	if strings.Contains(out.String(), "passed") {
		t.Errorf("report holds the last line as well: %q", out.String())
	}
}

// TestLive checks that what a test says is printed before it ends, and once; what it
// said when it failed is repeated after all that it printed.
func TestLive(t *testing.T) {
	const begun = `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"A","Output":"=== RUN   A\n"}
{"Action":"output","Package":"p","Test":"A","Output":"    a_test.go:1: halfway\n"}
`
	var out strings.Builder
	live := newTally(&out)
	live.live = true
	if err := feed(strings.NewReader(begun), live); err != nil {
		t.Fatal(err)
	}
	if want := "---- A\n    a_test.go:1: halfway\n"; out.String() != want {
		t.Errorf("printed %q while the test ran, want %q", out.String(), want)
	}
	const rest = `{"Action":"output","Package":"p","Test":"A","Output":"--- FAIL: A (2.00s)\n"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`
	if err := feed(strings.NewReader(rest), live); err != nil {
		t.Fatal(err)
	}
	want := "---- A\n    a_test.go:1: halfway\n--- FAIL: A (2.00s)\nFAIL p A\n    a_test.go:1: halfway\nFAIL p: 1 of 1 tests failed in 0.0 s\n"
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
	if want := "0 passed, 1 failed, 0 skipped"; live.line() != want {
		t.Errorf("last line is %q, want %q", live.line(), want)
	}
}
