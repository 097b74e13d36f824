package e2e

import (
	"fmt"
	"io"
	"sync"
	"testing"
	"text/tabwriter"
)

// Figure is a measured value beside what it should be.
type Figure struct {
	Name   string
	Got    float64
	Target float64 // at most; 0: there is none, the value is a baseline
	Unit   string
}

func (f Figure) verdict() string {
	switch {
	case f.Target == 0:
		return "baseline"
	case f.Got <= f.Target:
		return "met"
	}
	return fmt.Sprintf("%.2fx over", f.Got/f.Target)
}

var figures struct {
	sync.Mutex
	all []Figure
}

// Report logs a figure and keeps it for PrintFigures. A missed target does not
// fail the test: a busy machine is not a broken driver. What must never be
// exceeded is for the test to check.
func Report(t testing.TB, f Figure) {
	t.Helper()
	t.Logf("%s: %.2f %s (%s)", f.Name, f.Got, f.Unit, f.verdict())
	figures.Lock()
	defer figures.Unlock()
	figures.all = append(figures.all, f)
}

// PrintFigures prints all figures that were reported, as a table.
func PrintFigures(out io.Writer) error {
	figures.Lock()
	defer figures.Unlock()
	if len(figures.all) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintln(table, "figure\tmeasured\ttarget\t"); err != nil {
		return err
	}
	for _, f := range figures.all {
		target := "-"
		if f.Target > 0 {
			target = fmt.Sprintf("<= %.2f %s", f.Target, f.Unit)
		}
		if _, err := fmt.Fprintf(table, "%s\t%.2f %s\t%s\t%s\n", f.Name, f.Got, f.Unit, target, f.verdict()); err != nil {
			return err
		}
	}
	return table.Flush()
}
