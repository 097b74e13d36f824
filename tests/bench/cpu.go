package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cpu measures what one 4k write at QD32 costs the site's process: processor
// time, and how often one of its threads gives up the processor or loses it.
func (b *bench) cpu() error {
	v, err := b.volume("cpu", deviceBytes, map[string]string{"blockSize": "4096"})
	if err != nil {
		return err
	}
	b.env.Undo(func() error { return b.site.Unpublish(b.ctx, v, true) })
	if err := b.fill(v.Target); err != nil {
		return err
	}
	const name = "cost of a 4k write at QD32"
	for range b.o.rounds {
		before, err := usageOf(b.site.PID())
		if err != nil {
			return err
		}
		r, err := b.fio(v.Target, "--rw=randwrite", "--bs=4k", "--iodepth=32")
		if err != nil {
			return err
		}
		after, err := usageOf(b.site.PID())
		if err != nil {
			return err
		}
		b.sample(name, "µs", (after.seconds-before.seconds)*1e6/float64(r.requests))
		b.sample(name, "switches", float64(after.switches-before.switches)/float64(r.requests))
	}
	b.figure("site's processor time for a 4k write at QD32", median(b.Samples[name+", µs"]), 4, "µs")
	b.figure("site's context switches for a 4k write at QD32", median(b.Samples[name+", switches"]), 0.7, "each")
	return nil
}

// usage is what a process has used so far.
type usage struct {
	seconds  float64 // of processor time
	switches int64   // context switches of its living threads
}

// userHz is the unit of times in proc_pid_stat(5), the same on all Linux
// architectures that Go knows.
const userHz = 100

func usageOf(pid int) (usage, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	// The command's name is in parentheses and may have spaces.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	user, userErr := strconv.ParseFloat(fields[11], 64)
	system, systemErr := strconv.ParseFloat(fields[12], 64)
	if userErr != nil || systemErr != nil {
		return usage{}, fmt.Errorf("read times of process %d: %q", pid, raw)
	}
	u := usage{seconds: (user + system) / userHz}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return usage{}, err
	}
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if os.IsNotExist(err) || err == unix.ESRCH {
			continue // it has ended
		}
		if err != nil {
			return usage{}, err
		}
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			if strings.HasSuffix(name, "voluntary_ctxt_switches") { // and nonvoluntary_…
				n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
				if err != nil {
					return usage{}, fmt.Errorf("read %s: %w", thread, err)
				}
				u.switches += n
			}
		}
	}
	return u, nil
}
