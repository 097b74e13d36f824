package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// event is one line of the stream; see `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output and build-fail
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// name identifies a test in the whole run.
type name struct{ pkg, test string }

// tally counts tests.
type tally struct {
	out                     io.Writer
	live                    bool               // print output as it comes
	running                 map[name]*progress // tests that have not ended
	parents                 map[name]bool      // tests with subtests
	failedBelow             map[name]bool      // parents with a subtest that failed
	pending                 map[string]string  // output of packages outside of tests
	counts                  map[string]int     // tests counted, by package
	failures                map[string]int     // of them failed, by package
	built                   map[string]string  // output of builds, by import path
	reasons                 strings.Builder    // why what failed did, to be repeated at the end
	passed, failed, skipped int
}

// progress is a test that has not ended.
type progress struct {
	output   strings.Builder // empty when it was printed as it came
	messages said
}

func newTally(out io.Writer) *tally {
	return &tally{
		out: out, running: map[name]*progress{}, parents: map[name]bool{}, failedBelow: map[name]bool{},
		pending: map[string]string{}, counts: map[string]int{}, failures: map[string]int{}, built: map[string]string{},
	}
}

// print passes text on. Nothing can be done about a broken standard output
// that the exit status does not say as well.
func (t *tally) print(format string, args ...any) {
	if len(args) > 0 {
		format = fmt.Sprintf(format, args...)
	}
	_, _ = io.WriteString(t.out, format)
}

func (t *tally) line() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", t.passed, t.failed, t.skipped)
}

func (t *tally) add(e event) {
	n := name{e.Package, e.Test}
	switch {
	case e.Action == "build-output":
		t.built[e.ImportPath] += e.Output
	case e.Action == "build-fail":
		t.print("%s", t.built[e.ImportPath])
		fmt.Fprintf(&t.reasons, "failed: build of %s\n%s", e.ImportPath, ending(t.built[e.ImportPath]))
	case e.Test == "":
		t.addPackage(e)
	case e.Action == "run":
		t.running[n] = &progress{}
		if t.live {
			t.print("---- %s\n", e.Test)
		}
		for p, ok := n.parent(); ok; p, ok = p.parent() {
			t.parents[p] = true
		}
	case e.Action == "output":
		if t.live && !strings.HasPrefix(e.Output, "=== ") {
			t.print("%s", e.Output)
		}
		if p := t.running[n]; p != nil {
			p.messages.add(e.Output)
			if !t.live {
				p.output.WriteString(e.Output)
			}
		}
	case e.Action == "pass", e.Action == "fail", e.Action == "skip":
		t.end(n, e.Action)
	}
}

// parent is the test that n is a subtest of.
func (n name) parent() (name, bool) {
	i := strings.LastIndexByte(n.test, '/')
	if i < 0 {
		return name{}, false
	}
	return name{n.pkg, n.test[:i]}, true
}

// end counts a test that ended, unless its subtests count in its place.
func (t *tally) end(n name, outcome string) {
	text, messages := "", ""
	if p := t.running[n]; p != nil {
		text, messages = p.output.String(), p.messages.text()
	}
	delete(t.running, n)
	if t.live {
		text = messages // the rest has been printed, and it may be long
	}
	if t.parents[n] && (outcome != "fail" || t.failedBelow[n]) {
		if outcome == "fail" {
			t.blame(n)
			t.print("%s", text) // what it logged itself may tell why
			if messages != "" {
				t.repeat(n, messages)
			}
		}
		return
	}
	t.counts[n.pkg]++
	switch outcome {
	case "pass":
		t.passed++
	case "skip":
		t.skipped++
		if t.live {
			return // it has said why
		}
		t.print("SKIP %s %s: %s\n", n.pkg, n.test, reason(text))
	case "fail":
		t.failed++
		t.failures[n.pkg]++
		t.blame(n)
		t.print("FAIL %s %s\n%s", n.pkg, n.test, text)
		t.repeat(n, messages)
	}
}

// repeat notes what a failed test said, for the end. Of one of very many its name is
// enough.
func (t *tally) repeat(n name, messages string) {
	if t.reasons.Len() > maxReasonBytes {
		messages = "    see above\n"
	} else if messages == "" {
		messages = "    it did not say why\n"
	}
	fmt.Fprintf(&t.reasons, "failed: %s (%s)\n%s", n.test, n.pkg, messages)
}

// blame notes that the parents of n failed because of it.
func (t *tally) blame(n name) {
	for p, ok := n.parent(); ok; p, ok = p.parent() {
		t.failedBelow[p] = true
	}
}

// reason picks what a skipped test said last before it ended.
func reason(output string) string {
	why := "no reason given"
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			why = line
		}
	}
	return why
}

// addPackage handles the events of a package as a whole.
func (t *tally) addPackage(e event) {
	switch e.Action {
	case "output":
		if t.live {
			t.print("%s", e.Output)
		}
		t.pending[e.Package] += e.Output
	case "pass", "skip":
		if n := t.counts[e.Package]; n > 0 {
			t.print("ok   %s: %d tests in %.1f s\n", e.Package, n, e.Elapsed)
		}
		delete(t.pending, e.Package)
	case "fail":
		died := t.interrupt(e.Package)
		if t.failures[e.Package] == 0 {
			t.failed++
			died = true // or did not build
		}
		if died {
			if !t.live {
				t.print("%s", t.pending[e.Package])
			}
			fmt.Fprintf(&t.reasons, "failed: %s\n%s", e.Package, ending(t.pending[e.Package]))
		}
		t.print("FAIL %s: %d of %d tests failed in %.1f s\n", e.Package, t.failures[e.Package], t.counts[e.Package], e.Elapsed)
		delete(t.pending, e.Package)
	}
}

// interrupt ends, as failed, what was running when a package's process died,
// and reports whether there was anything.
func (t *tally) interrupt(pkg string) bool {
	var left []name
	for n := range t.running {
		if n.pkg == pkg {
			left = append(left, n)
		}
	}
	// Subtests first, so that their parents are not counted too.
	slices.SortFunc(left, func(a, b name) int { return strings.Compare(b.test, a.test) })
	for _, n := range left {
		t.end(n, "fail")
	}
	return len(left) > 0
}

// finish ends what is left when the stream ends: the go command died.
func (t *tally) finish() {
	left := map[string]bool{}
	for n := range t.running {
		left[n.pkg] = true
	}
	for _, pkg := range slices.Sorted(maps.Keys(left)) {
		t.interrupt(pkg)
		t.print("FAIL %s: the test run ended before it did\n", pkg)
	}
}
