package main

import (
	"fmt"
	"regexp"
	"strings"
)

// Bounds of what is repeated of a failed test: enough for an assertion with what it
// compares, and little enough to be the end of a log that is cut off.
const (
	maxMessages     = 24       // of a test, the newest
	maxMessageLines = 12       // of a message, the first
	maxLineBytes    = 400      // of a line
	maxReasonBytes  = 16 << 10 // of all tests, before the rest is named only
	endingLines     = 20       // of what a package says outside of tests, the last
)

var (
	// logged is the first line of what t.Log, t.Error and t.Fatal print.
	logged = regexp.MustCompile(`^    [^\s:]+\.go:\d+: `)
	// died is the first line of what a process says that dies.
	died = regexp.MustCompile(`^(panic|fatal error|SIG[A-Z]+): `)
)

// continued is the margin of the lines of a message after its first one.
const continued = "        "

// said keeps the newest messages of a test, apart from all else that it prints: a dump
// of a cluster written to its output, for example, which is long and comes last.
type said struct {
	messages [][]string
	left     int    // messages left out at the beginning
	partial  string // of a line whose end has not come
	last     bool   // what comes may belong to the newest message
	dying    bool   // all that comes does
}

// add takes a piece of a test's output, at most one line of it.
func (s *said) add(output string) {
	if len(s.partial) < maxLineBytes+len(continued) {
		s.partial += output
	}
	if !strings.HasSuffix(output, "\n") {
		return
	}
	line := strings.TrimSuffix(s.partial, "\n")
	s.partial = ""
	s.dying = s.dying || died.MatchString(line)
	switch {
	case logged.MatchString(line), died.MatchString(line):
		s.begin(line)
	case s.dying, s.last && strings.HasPrefix(line, continued):
		s.goOn(line)
	default:
		s.last = false
	}
}

func (s *said) begin(line string) {
	s.last = true
	s.messages = append(s.messages, []string{bounded(line)})
	if len(s.messages) > maxMessages {
		s.messages = s.messages[1:]
		s.left++
	}
}

func (s *said) goOn(line string) {
	newest := &s.messages[len(s.messages)-1]
	switch n := len(*newest); {
	case n < maxMessageLines:
		*newest = append(*newest, bounded(line))
	case n == maxMessageLines:
		*newest = append(*newest, continued+"…")
	}
}

func bounded(line string) string {
	if len(line) <= maxLineBytes {
		return line
	}
	return strings.ToValidUTF8(line[:maxLineBytes], "") + "…"
}

// text is the messages as they were printed.
func (s *said) text() string {
	var b strings.Builder
	if s.left > 0 {
		fmt.Fprintf(&b, "    … %d messages before\n", s.left)
	}
	for _, message := range s.messages {
		for _, line := range message {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// ending is the end of what was said outside of tests, with a test's margin.
func ending(output string) string {
	lines := strings.Split(strings.TrimRight(output, "\n"), "\n")
	lines = lines[max(0, len(lines)-endingLines):]
	for i, line := range lines {
		lines[i] = "    " + bounded(line) + "\n"
	}
	return strings.Join(lines, "")
}
