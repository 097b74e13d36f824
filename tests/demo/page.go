package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// page prints what the demo does, for people.
type page struct {
	out   io.Writer
	dir   string // written as $DIR
	steps int
}

func (p *page) print(format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), p.dir, "$DIR")
	fmt.Fprint(p.out, text) //nolint:errcheck // nobody is there to tell
}

func (p *page) step(title string) {
	p.steps++
	p.print("\n%d. %s\n\n", p.steps, title)
}

// say is a sentence between commands and figures.
func (p *page) say(format string, args ...any) { p.print("   "+format+"\n", args...) }

// command shows a command line that a user could type.
func (p *page) command(args ...string) { p.print("   $ %s\n", strings.Join(args, " ")) }

// call shows a call that Kubernetes would make over CSI.
func (p *page) call(format string, args ...any) { p.print("   CSI: "+format+"\n", args...) }

// output shows what a command printed.
func (p *page) output(text string) {
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) != "" {
			p.print("     %s\n", strings.TrimRight(line, "\n"))
		}
	}
}

// figure shows one thing that was measured.
func (p *page) figure(name, format string, args ...any) {
	p.print("   %-46s %s\n", name, fmt.Sprintf(format, args...))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// milliseconds has three significant digits, which is as honest as one run is.
func milliseconds(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case ms < 1:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 10_000:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return seconds(d)
}

// percentile is the smallest measurement that at least a fraction q of all do
// not exceed.
func percentile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
