package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	summary := flag.String("summary", "", "file for the last lines; empty: standard output")
	live := flag.Bool("live", false, "print what tests say as they say it")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "tally: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	if err := run(os.Stdin, os.Stdout, *summary, *live); err != nil {
		fmt.Fprintf(os.Stderr, "tally: %v\n", err)
		os.Exit(1)
	}
}

// run tallies in, reports to out as it goes, and writes why tests failed and the
// last line to the file named summary, or to out if that is empty.
func run(in io.Reader, out io.Writer, summary string, live bool) error {
	t := newTally(out)
	t.live = live
	readErr := feed(in, t)
	t.finish()
	last := t.reasons.String() + t.line() + "\n"
	if summary == "" {
		if _, err := io.WriteString(out, last); err != nil {
			return fmt.Errorf("write result: %w", err)
		}
	} else if err := os.WriteFile(summary, []byte(last), 0o644); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	switch {
	case readErr != nil:
		return readErr
	case t.failed > 0:
		return fmt.Errorf("%d tests failed", t.failed)
	case t.passed == 0:
		return fmt.Errorf("no test ran")
	}
	return nil
}

// feed hands every event of a stream to t. Lines that are no events, as the go
// command prints them when a build fails, are passed on.
func feed(in io.Reader, t *tally) error {
	lines := bufio.NewReader(in)
	for {
		text, err := lines.ReadBytes('\n')
		if len(text) > 0 {
			var e event
			if json.Unmarshal(text, &e) == nil && e.Action != "" {
				t.add(e)
			} else {
				t.print(string(text))
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read test events: %w", err)
		}
	}
}
