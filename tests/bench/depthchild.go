package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

const (
	depthVolumeBytes  = 512 << 30
	depthSegmentBytes = 1536 << 10 // 16k records without payload
	depthBlockBytes   = 4096
	depthViews        = 25
	depthLookups      = 20_000
	depthPoints       = 86_400 // checkpoints over all records: a day of seconds
)

// depthFigures is what the child that opens the store has measured.
type depthFigures struct {
	Records     int // that the newest checkpoint follows
	OpenSeconds float64
	ViewMillis  []float64
	LiveMicros  float64
	Lookups     []depthLookup
	PeakMiB     float64
}

// depthLookup is the cost of finding 4 KiB in a view: for the first time, when
// blocks come from the disk, and again, when the kernel has them.
type depthLookup struct {
	Records                 int
	ColdMicros              float64 // median
	MedianMicros, P99Micros float64 // warm
}

func depthConfig(o options) journal.Config {
	return journal.Config{FS: vfs.OS{}, Dir: o.depthStore, SegmentBytes: depthSegmentBytes, IndexMemory: int64(o.indexMiB) << 20}
}

// depthEvery is the number of records from one checkpoint to the next.
func (o options) depthEvery() int { return max(1, o.depthRecords/depthPoints) }

func runDepthChild(ctx context.Context, o options) error {
	if o.depthChild == "build" {
		return buildDepthStore(ctx, o)
	}
	f, err := openDepthStore(o)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

// depthPlaces are the places of the records, in their order.
func depthPlaces() func() int64 {
	rng := rand.New(rand.NewPCG(1, 2))
	return func() int64 { return rng.Int64N(depthVolumeBytes/depthBlockBytes) * depthBlockBytes }
}

// openDepthBuild makes the store, or goes on with one whose building was cut short: done
// is how many of its records are there up to its newest checkpoint, behind which it forks.
func openDepthBuild(o options) (s *journal.Store, done int, err error) {
	cfg := depthConfig(o)
	err = journal.Create(cfg, journal.Spec{Volume: journal.VolumeID{1}, SizeBytes: depthVolumeBytes})
	if err != nil && !errors.Is(err, journal.ErrExists) {
		return nil, 0, err
	}
	if s, err = journal.Open(cfg); err != nil {
		return nil, 0, err
	}
	points := s.Checkpoints()
	if len(points) == 0 {
		return s, 0, nil
	}
	newest := points[len(points)-1]
	if newest.Position != s.Tip() {
		_, err = s.Fork(newest.Position, "the building of a store goes on")
	}
	return s, int(newest.Number) * o.depthEvery(), err
}

func buildDepthStore(ctx context.Context, o options) error {
	s, done, err := openDepthBuild(o)
	if err != nil {
		return err
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.Run(ctx) }()
	place, every := depthPlaces(), o.depthEvery()
	began := time.Now()
	for range done {
		place()
	}
	for i := done; i < o.depthRecords; i++ {
		if _, err := s.Zero(place(), depthBlockBytes); err != nil {
			return err
		}
		if i%every == every-1 {
			c := journal.Checkpoint{Number: journal.CheckpointNumber(i/every + 1), Time: time.Now(),
				CheckpointInfo: journal.CheckpointInfo{Group: "depth", Members: []journal.VolumeID{{1}}}}
			if _, err := s.Checkpoint(c); err != nil {
				return err
			}
		}
		if i%(o.depthRecords/20+1) == 0 {
			fmt.Fprintf(os.Stderr, "%d records after %v, %d extents in memory\n", i, time.Since(began).Round(time.Second), s.Stats().IndexExtents)
		}
	}
	if err := s.Flush(ctx); err != nil {
		return err
	}
	took := time.Since(began)
	runs, runBytes, err := waitForRuns(o.depthStore)
	if err != nil {
		return err
	}
	fmt.Printf("ready %d records in %v, %.1f GiB of journal in %d segments, %d index runs of %.1f GiB\n", o.depthRecords, took.Round(time.Second),
		float64(s.Stats().JournalBytes)/(1<<30), s.Stats().Segments, runs, float64(runBytes)/(1<<30))
	return <-stopped // the parent kills this process
}

// waitForRuns returns when no run was made for some seconds, and what runs there are.
func waitForRuns(dir string) (n int, bytes int64, err error) {
	for unchanged := 0; unchanged < 10; {
		names, err := filepath.Glob(filepath.Join(dir, "journal", "*.run"))
		if err != nil {
			return 0, 0, err
		}
		temps, err := filepath.Glob(filepath.Join(dir, "journal", "*.run.tmp"))
		if err != nil {
			return 0, 0, err
		}
		if unchanged++; len(names) != n || len(temps) > 0 {
			unchanged = 0
		}
		n, bytes = len(names), 0
		for _, name := range names {
			if info, err := os.Stat(name); err == nil {
				bytes += info.Size()
			}
		}
		time.Sleep(time.Second)
	}
	return n, bytes, nil
}

func openDepthStore(o options) (f depthFigures, err error) {
	if err := dropStoreCache(o.depthStore); err != nil {
		return f, err
	}
	began := time.Now()
	s, err := journal.Open(depthConfig(o))
	if err != nil {
		return f, err
	}
	f.OpenSeconds = time.Since(began).Seconds()
	points, every := s.Checkpoints(), o.depthEvery()
	if len(points) == 0 {
		return f, errors.New("the store has no checkpoint")
	}
	records := func(c journal.Checkpoint) int { return int(c.Number) * every }
	f.Records = records(points[len(points)-1])
	for i := range depthViews {
		at := points[i*(len(points)-1)/(depthViews-1)].Position
		began := time.Now()
		v, err := s.View(at)
		if err != nil {
			return f, err
		}
		f.ViewMillis = append(f.ViewMillis, time.Since(began).Seconds()*1e3)
		if err := v.Close(); err != nil {
			return f, err
		}
	}
	for n := len(points); n > 0; n /= 4 {
		l, err := measureLookups(s, points[n-1].Position, records(points[n-1]))
		if err != nil {
			return f, err
		}
		f.Lookups = append([]depthLookup{l}, f.Lookups...)
		if len(f.Lookups) == 6 {
			break
		}
	}
	live, err := timeReads(s.ReadAt, f.Records)
	f.LiveMicros = median(live)
	f.PeakMiB = peakMiB()
	return f, err // not closed: the store stays as the kill has left it
}

func measureLookups(s *journal.Store, at journal.Position, records int) (depthLookup, error) {
	v, err := s.View(at)
	if err != nil {
		return depthLookup{}, err
	}
	cold, err := timeReads(v.ReadAt, records)
	if err != nil {
		return depthLookup{}, err
	}
	warm, err := timeReads(v.ReadAt, records)
	if err != nil {
		return depthLookup{}, err
	}
	return depthLookup{records, median(cold), median(warm), quantile(warm, 0.99)}, v.Close()
}

// timeReads reads blocks that the first so many records wrote, spread over them.
func timeReads(read func(p []byte, off int64) error, records int) ([]float64, error) {
	place, p := depthPlaces(), make([]byte, depthBlockBytes)
	var micros []float64
	step := max(1, records/depthLookups)
	for i := range records {
		off := place()
		if i%step != 0 {
			continue
		}
		began := time.Now()
		if err := read(p, off); err != nil {
			return nil, err
		}
		micros = append(micros, float64(time.Since(began).Nanoseconds())/1e3)
	}
	return micros, nil
}

// dropStoreCache has the store's files come from the disk.
func dropStoreCache(dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Sync(); err != nil {
			return err
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}

// peakMiB is the most memory that this process had resident.
func peakMiB() float64 {
	runtime.GC()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(text)[0], 64)
			return kib / 1024
		}
	}
	return 0
}
