package nbd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/engine/frontend/conformance"
)

// BenchmarkFio has fio measure the frontend over a device in memory: what is
// left is the cost of the protocol, the socket and this server. Each case is
// one fio run of a few seconds whatever b.N is; use -benchtime=1x.
func BenchmarkFio(b *testing.B) {
	fio := tool(b, "fio")
	s, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	dev := conformance.NewMemory(256 << 20)
	// Written once before, so that no case pays for the device's first touch.
	if err := dev.WriteAt(b.Context(), bytes.Repeat([]byte{1}, 256<<20), 0, false); err != nil {
		b.Fatal(err)
	}
	if err := s.Add("vol", dev, ""); err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "nbd.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	var group errgroup.Group
	group.Go(func() error { return s.Serve(b.Context(), l) })
	b.Cleanup(func() {
		if err := group.Wait(); err != nil {
			b.Error(err)
		}
	})
	uri := fmt.Sprintf("nbd+unix:///vol?socket=%s", path)

	for _, c := range []struct {
		name, rw, bs string
		depth, jobs  int
	}{
		{"write-4k-QD1", "randwrite", "4k", 1, 1},
		{"write-4k-QD32", "randwrite", "4k", 32, 1},
		{"write-4k-QD32x2", "randwrite", "4k", 32, 2},
		{"read-4k-QD1", "randread", "4k", 1, 1},
		{"read-4k-QD32", "randread", "4k", 32, 1},
		{"read-4k-QD32x2", "randread", "4k", 32, 2},
		{"write-1m-QD4", "write", "1m", 4, 1},
		{"read-1m-QD4", "read", "1m", 4, 1},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				out := output(b, fio, "--name=bench", "--ioengine=nbd", "--uri="+uri, "--size=256m",
					"--rw="+c.rw, "--bs="+c.bs, fmt.Sprintf("--iodepth=%d", c.depth), fmt.Sprintf("--numjobs=%d", c.jobs),
					"--time_based", "--runtime=3", "--ramp_time=1", "--group_reporting", "--norandommap",
					"--randrepeat=0", "--output-format=json")
				report(b, out)
			}
		})
	}
}

// report hands fio's figures to the benchmark.
func report(b *testing.B, out string) {
	b.Helper()
	type side struct {
		IOPS      float64 `json:"iops"`
		BandKiB   float64 `json:"bw"`
		LatencyNS struct {
			Percentile map[string]float64 `json:"percentile"`
		} `json:"clat_ns"`
	}
	var result struct {
		Jobs []struct{ Read, Write side } `json:"jobs"`
	}
	// Lines from the nbd engine come before the object.
	start := max(strings.IndexByte(out, '{'), 0)
	if err := json.Unmarshal([]byte(out[start:]), &result); err != nil || len(result.Jobs) == 0 {
		b.Fatalf("fio printed %v: %s", err, out)
	}
	s := result.Jobs[0].Read
	if s.IOPS == 0 {
		s = result.Jobs[0].Write
	}
	b.ReportMetric(s.IOPS, "IOPS")
	b.ReportMetric(s.BandKiB/1024, "MiB/s")
	b.ReportMetric(s.LatencyNS.Percentile["50.000000"]/1000, "p50-µs")
	b.ReportMetric(s.LatencyNS.Percentile["99.000000"]/1000, "p99-µs")
}
