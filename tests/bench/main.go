// Command bench measures a volume against a plain loop device and against
// qemu-storage-daemon's FUSE export, all three on the same disk in the same
// run, interleaved, and prints medians, ratios and targets. It needs root.
//
// Ratios mean something, single figures do not: the disk is shared and noisy.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

type options struct {
	dir        string
	bin        string
	rounds     int
	seconds    int
	journalGiB int
	parts      string
	out        string
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "directory on the disk to be measured")
	flag.StringVar(&o.bin, "bin", "bin/lockstep", "the lockstep binary")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds of each job on each device")
	flag.IntVar(&o.seconds, "seconds", 3, "seconds of each fio run")
	flag.IntVar(&o.journalGiB, "journal-gib", 10, "journal size for the view figures; 0 leaves them out")
	flag.StringVar(&o.parts, "parts", "", "comma-separated parts to measure, of "+strings.Join(partNames(), ", ")+"; empty: all")
	flag.StringVar(&o.out, "out", "", "file for the raw samples as JSON; empty: none")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("loop devices and mounts need root")
	}
	chosen, err := chooseParts(o.parts)
	if err != nil {
		return err
	}
	env, err := harness.New(o.dir, o.bin, os.Stdout)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	site, err := env.StartSite(ctx, harness.SiteConfig{Name: "a"})
	if err != nil {
		return err
	}
	b := &bench{ctx: ctx, env: env, site: site, o: o}
	began := time.Now()
	for _, p := range chosen {
		if err := p.measure(b); err != nil {
			return fmt.Errorf("measure %s: %w", p.name, err)
		}
	}
	fmt.Printf("\nmeasured in %v\n", time.Since(began).Round(time.Second))
	return b.save()
}

// part is a set of figures that can be measured alone.
type part struct {
	name    string
	measure func(*bench) error
}

// parts in the order in which they are measured.
var parts = []part{
	{"idle", (*bench).idle},
	{"devices", (*bench).devices},
	{"checkpoints", (*bench).checkpoints},
	{"views", (*bench).views},
}

func partNames() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// chooseParts finds the parts that a comma-separated list names; empty is all.
func chooseParts(list string) ([]part, error) {
	if list == "" {
		return parts, nil
	}
	var chosen []part
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no part %q; there are %s", name, strings.Join(partNames(), ", "))
		}
		chosen = append(chosen, parts[i])
	}
	return chosen, nil
}

// bench is one run.
type bench struct {
	ctx  context.Context
	env  *harness.Env
	site *harness.Site
	o    options
	// Samples by job and device, in the order of measurement.
	Samples map[string]map[string][]float64 `json:"samples"`
	Figures map[string]float64              `json:"figures"`
}

func (b *bench) sample(job, device string, v float64) {
	if b.Samples == nil {
		b.Samples = map[string]map[string][]float64{}
	}
	if b.Samples[job] == nil {
		b.Samples[job] = map[string][]float64{}
	}
	b.Samples[job][device] = append(b.Samples[job][device], v)
}

// figure prints and keeps one figure with its target; at most, in unit.
func (b *bench) figure(name string, v, target float64, unit string) {
	if b.Figures == nil {
		b.Figures = map[string]float64{}
	}
	b.Figures[name] = v
	verdict := "pass"
	if v > target {
		verdict = "short"
	}
	fmt.Printf("%-52s %10.2f %-6s  target <= %g  %s\n", name, v, unit, target, verdict)
}
