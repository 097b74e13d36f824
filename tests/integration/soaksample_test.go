package integration

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

const (
	// soakSegments is what a journal has beside its budget: a segment that is
	// not full and one that cannot be let go of yet.
	soakSegments = 2 * journal.DefaultSegmentBytes
	// soakFiles are those without records: the next segment's, and what is kept
	// for reuse (docs/limitations.md).
	soakFiles = 5 * journal.DefaultSegmentBytes
)

// soakLimits are what may be more at the end than after the warm-up.
var soakLimits = struct {
	memoryBytes, memoryPercent int64
	descriptors, goroutines    int64
	// diskBytes bounds what a site takes on disk at the end, whatever it took
	// before: images, budgets, segments, and catalogs with indexes. It is a small
	// part of what half an hour writes.
	diskBytes [soakSites]int64
}{
	memoryBytes: 32 * mib, memoryPercent: 25,
	descriptors: 8, goroutines: 12,
	diskBytes: [soakSites]int64{soakPairBytes, soakPairBytes, soakBytes + soakThinJournal + soakSegments + soakFiles + 16*mib},
}

const (
	soakSites     = 3
	soakPairBytes = soakVolumes*soakBytes + soakFioBytes + (soakVolumes+1)*(soakJournal+soakSegments+soakFiles+16*mib)
)

// soakSample is what the processes of the sites take at a moment, or nothing
// where one does not run.
type soakSample struct {
	at    time.Duration
	kills int
	sites [soakSites]usage
	disks [soakSites]int64 // bytes
	// holders are the processes that hold devices.
	holders [soakSites]usage
}

// usage is what one process takes.
type usage struct {
	memoryBytes int64 // its own: neither files nor the page cache
	descriptors int64
	goroutines  int64 // -1: not known
}

// sample takes a sample and tells it.
func (s *soak) sample(ctx context.Context) soakSample {
	s.t.Helper()
	x := soakSample{at: time.Since(s.began).Round(time.Second), kills: s.kills}
	for i, site := range s.allSites() {
		x.sites[i] = must(processUsage(site.Pid()))(s.t)
		x.sites[i].goroutines = must(metric(ctx, site, "go_goroutines"))(s.t)
		if pid := holderOf(site); pid != 0 {
			x.holders[i] = must(processUsage(pid))(s.t)
		}
		x.disks[i] = must(diskBytes(ctx, site.Config.Root))(s.t)
	}
	s.samples = append(s.samples, x)
	if len(s.samples) == 1 {
		s.t.Log(soakHeader)
	}
	s.t.Logf("%s %9d", x, s.chains.writtenBytes()/chainBlock)
	return x
}

const soakHeader = "   time kills | site a: MiB  fds  gor  disk | site b: MiB  fds  gor  disk | site c: MiB  fds  gor  disk | holder: MiB fds | blocks"

func (x soakSample) String() string {
	text := fmt.Sprintf("%7s %5d", x.at, x.kills)
	for i, u := range x.sites {
		text += fmt.Sprintf(" | %11d %4d %4d %5d", u.memoryBytes/mib, u.descriptors, u.goroutines, x.disks[i]/mib)
	}
	return text + fmt.Sprintf(" | %11d %3d |", x.holders[0].memoryBytes/mib, x.holders[0].descriptors)
}

// table prints the two samples that are compared.
func (s *soak) table(baseline, ending soakSample) {
	s.t.Logf("at rest after the warm-up and at the end:\n%s\n%s\n%s", soakHeader, baseline, ending)
}

// soakProblems says what is not flat.
func soakProblems(baseline, ending soakSample) (problems []string) {
	l := soakLimits
	over := func(where, what string, was, is, limit int64) {
		if is > limit {
			problems = append(problems, fmt.Sprintf("%s: %s was %d and is %d, allowed are %d", where, what, was, is, limit))
		}
	}
	compare := func(where string, was, is usage) {
		over(where, "memory", was.memoryBytes, is.memoryBytes, was.memoryBytes*(100+l.memoryPercent)/100+l.memoryBytes)
		over(where, "the number of descriptors", was.descriptors, is.descriptors, was.descriptors+l.descriptors)
		over(where, "the number of goroutines", was.goroutines, is.goroutines, was.goroutines+l.goroutines)
	}
	for i, name := range []string{"a", "b", "c"} {
		compare("site "+name, baseline.sites[i], ending.sites[i])
		compare("the holder of site "+name, baseline.holders[i], ending.holders[i])
		over("site "+name, "the disk", baseline.disks[i], ending.disks[i], l.diskBytes[i])
	}
	return problems
}

// processUsage reads what a process takes, all but its goroutines.
func processUsage(pid int) (usage, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return usage{}, err
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return usage{}, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return usage{kib << 10, int64(len(fds)), -1}, err
		}
	}
	return usage{}, fmt.Errorf("process %d has no memory", pid)
}

// processWith finds a process by an argument; 0 if there is none.
func processWith(argument string) int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err == nil && strings.Contains("\x00"+string(b), "\x00"+argument+"\x00") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			return pid
		}
	}
	return 0
}

// metric asks a site for the sum of what it tells under a name.
func metric(ctx context.Context, site *harness.Site, name string) (sum int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+site.Config.Metrics+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	found := false
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != name && !strings.HasPrefix(fields[0], name+"{") {
			continue
		}
		value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s of site %s: %w", name, site.Config.Name, err)
		}
		found, sum = true, sum+int64(value)
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("read metrics of site %s: %w", site.Config.Name, err)
	}
	if !found {
		return 0, fmt.Errorf("site %s does not tell %s", site.Config.Name, name)
	}
	return sum, nil
}

// diskBytes is what a directory takes.
func diskBytes(ctx context.Context, dir string) (int64, error) {
	// Files come and go meanwhile, of which du complains: the last line counts.
	out, err := harness.Run(ctx, "sh", "-c", `du -s -x --block-size=1 "$1" 2>/dev/null || true`, "sh", dir)
	if err != nil {
		return 0, err
	}
	number, _, _ := strings.Cut(strings.TrimSpace(out), "\t")
	return strconv.ParseInt(number, 10, 64)
}
