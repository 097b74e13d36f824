// Command bench measures Lockstep against plain loop devices and against
// qemu-storage-daemon's FUSE export, on the same disk in the same run,
// interleaved, and prints medians, ratios and targets. It needs root.
//
// Ratios mean something, single figures do not: the disk is shared and noisy.
// Journaling and checkpoints are on, FLUSH is durable, and destage is running
// where the journal is full.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

type options struct {
	dir        string
	bin        string
	quick      bool
	rounds     int
	seconds    int
	journalGiB int
	parts      string
	jobs       string
	kinds      string
	out        string
	picture    string

	depthRecords int
	depthStore   string
	depthChild   string
	indexMiB     int
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "directory on the disk to be measured")
	flag.StringVar(&o.bin, "bin", "bin/lockstep", "the lockstep binary")
	flag.BoolVar(&o.quick, "quick", false, "one short round of everything, for a first look: about four minutes instead of twenty")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds of each measurement")
	flag.IntVar(&o.seconds, "seconds", 3, "seconds of each")
	flag.IntVar(&o.journalGiB, "journal-gib", 10, "size of the journal whose views are opened")
	flag.StringVar(&o.parts, "parts", "", "comma-separated parts to measure, of "+strings.Join(partNames(), ", ")+"; empty: all")
	flag.StringVar(&o.jobs, "jobs", "", "of the part devices, measure only the jobs whose name contains this")
	flag.StringVar(&o.kinds, "devices", strings.Join(defaultKinds(), ","), "comma-separated devices that the part devices measures")
	flag.StringVar(&o.out, "out", "out/bench.json", "file for the raw samples as JSON; empty: none")
	flag.StringVar(&o.picture, "picture", "out/bench.svg", "file for the picture of the ratios; empty: none")
	flag.IntVar(&o.depthRecords, "depth-records", 2_000_000, "records of the store that the part depth opens; 100000000 takes some minutes and 20 GiB")
	flag.StringVar(&o.depthStore, "depth-store", "", "directory of that store, kept and used again if it is there; empty: a temporary one")
	flag.IntVar(&o.indexMiB, "index-mib", 64, "memory for the index of that store")
	flag.StringVar(&o.depthChild, "depth-child", "", "what this process does for the part depth: build or open; empty: it is the bench")
	flag.Parse()
	if o.quick {
		o.rounds, o.seconds, o.journalGiB = 1, 2, 1
	}
	ctx, out, stop := harness.Interruptible()
	defer stop()
	do := func() error { return run(ctx, out, o) }
	if o.depthChild != "" {
		do = func() error { return runDepthChild(ctx, o) }
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
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
	{"cpu", (*bench).cpu},
	{"steady", (*bench).steady},
	{"group", (*bench).group},
	{"replication", (*bench).replication},
	{"postgres", (*bench).postgres},
	{"checkpoints", (*bench).checkpoints},
	{"views", (*bench).views},
	{"depth", (*bench).depth},
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

func run(ctx context.Context, out io.Writer, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("loop devices and mounts need root")
	}
	chosen, err := chooseParts(o.parts)
	if err != nil {
		return err
	}
	b := &bench{ctx: ctx, o: o, Samples: map[string][]float64{}}
	began := time.Now()
	for _, p := range chosen {
		if err := b.measure(p); err != nil {
			return fmt.Errorf("measure %s: %w", p.name, err)
		}
	}
	b.print()
	fmt.Printf("\nmeasured in %v\n", time.Since(began).Round(time.Second))
	return errors.Join(b.save(), b.draw())
}

// bench is one run.
type bench struct {
	ctx  context.Context
	o    options
	env  *harness.Env  // of the part that is measured
	site *harness.Site // in it
	// missed counts checkpoint rounds that were given up.
	missed int
	// Samples by measurement and what was measured, in the order of taking.
	Samples map[string][]float64 `json:"samples"`
	Rows    []row                `json:"rows"`
}

// measure runs one part on a site of its own, so that none has to live with
// what another has left behind.
func (b *bench) measure(p part) (err error) {
	if b.env, err = harness.New(b.o.dir, b.o.bin, os.Stdout); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.env.Close()) }()
	if p.name != "replication" { // it has two sites
		if b.site, err = b.env.StartSite(b.ctx, harness.SiteConfig{Name: "a"}); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stderr, "measuring %s\n", p.name)
	return p.measure(b)
}

// volume makes a raw volume of the site and attaches it.
func (b *bench) volume(name string, sizeBytes int64, parameters map[string]string) (*harness.Volume, error) {
	v, err := b.site.CreateVolume(b.ctx, harness.VolumeSpec{Name: name, SizeBytes: sizeBytes, Parameters: parameters})
	if err != nil {
		return nil, err
	}
	return v, b.site.Publish(b.ctx, v)
}
