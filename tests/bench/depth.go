package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// depth measures a store with a long history: how long it takes to open after a
// SIGKILL and to open a view of any position, what memory both take, and how
// the cost of a lookup grows with the number of records. The records are zeroes
// of 4 KiB at random places, which are as many extents as writes would be and
// take 64 bytes each; segments are as small as makes them hold as many records
// as one of 64 MiB with payloads does.
func (b *bench) depth() error {
	dir := b.o.depthStore
	if dir == "" {
		dir = b.env.Path("depth")
	}
	if _, err := os.Stat(dir); err != nil {
		if err := b.buildDepth(dir); err != nil {
			return err
		}
	}
	out, err := b.depthChild("open", dir).Output()
	if err != nil {
		return fmt.Errorf("open the store of %d records: %w", b.o.depthRecords, err)
	}
	var f depthFigures
	if err := json.Unmarshal(out, &f); err != nil {
		return err
	}
	of := fmt.Sprintf("%.3g M records", float64(f.Records)/1e6)
	b.figure("open a store of "+of+" after SIGKILL", f.OpenSeconds, 5, "s")
	b.figure("open a view of it, slowest of "+fmt.Sprint(len(f.ViewMillis)), quantile(f.ViewMillis, 1), 1000, "ms")
	b.figure("open a view of it, median", median(f.ViewMillis), 1000, "ms")
	b.figure("memory of the process, at most", f.PeakMiB, 256, "MiB")
	for _, ms := range f.ViewMillis {
		b.sample("open a view of "+of, onOurs, ms)
	}
	fmt.Printf("\nlookup of 4 KiB in a view, by the records that lead to it (index memory %d MiB, live lookup %.2f µs)\n", b.o.indexMiB, f.LiveMicros)
	fmt.Printf("%14s %12s %12s %12s\n", "records", "cold µs", "median µs", "p99 µs")
	for _, l := range f.Lookups {
		fmt.Printf("%14d %12.2f %12.2f %12.2f\n", l.Records, l.ColdMicros, l.MedianMicros, l.P99Micros)
		b.sample(fmt.Sprintf("lookup behind %d records", l.Records), onOurs, l.MedianMicros)
	}
	return nil
}

// buildDepth has another process fill a store, and kills it.
func (b *bench) buildDepth(dir string) error {
	fmt.Fprintf(os.Stderr, "appending %d records\n", b.o.depthRecords)
	child := b.depthChild("build", dir)
	out, err := child.StdoutPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return err
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	killErr := child.Process.Signal(syscall.SIGKILL)
	_ = child.Wait() // it was killed
	if err != nil || !strings.HasPrefix(said, "ready") {
		return fmt.Errorf("build the store: it said %q: %w", said, err)
	}
	fmt.Printf("store of %s", strings.TrimPrefix(said, "ready "))
	return killErr
}

// depthChild is this program again, in a process of its own.
func (b *bench) depthChild(mode, dir string) *exec.Cmd {
	cmd := exec.CommandContext(b.ctx, "/proc/self/exe", "-depth-child", mode, "-depth-store", dir,
		"-depth-records", strconv.Itoa(b.o.depthRecords), "-index-mib", strconv.Itoa(b.o.indexMiB))
	cmd.Stderr = os.Stderr
	return cmd
}
