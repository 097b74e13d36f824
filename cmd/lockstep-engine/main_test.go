package main

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/enginepod"
)

const volume = "0123456789abcdef0123456789abcdef"

// What an engine links is most of what it has in memory.
func TestAnEngineLinksNothingOfKubernetes(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range strings.Fields(string(out)) {
		if host, _, _ := strings.Cut(path, "/"); host == "k8s.io" || host == "sigs.k8s.io" || strings.HasPrefix(path, "github.com/container-storage-interface/") {
			t.Errorf("it links %s", path)
		}
	}
	if !strings.Contains(string(out), "github.com/lockstep-csi/lockstep/journal\n") {
		t.Errorf("it links no journal: %s", out)
	}
}

func TestFlagsReachTheEngine(t *testing.T) {
	var got enginepod.ProcessConfig
	var said bytes.Buffer
	status := execute(context.Background(), []string{"--volume=" + volume, "--store-dir=/store", "--journal-dir=/journal", "--holder-socket=/holder/holder.sock", "--tls-dir=/tls", "--peer-tls-dir=/peer",
		"--listen=:1", "--lease=engine-x", "--lease-id=id", "--namespace=ns", "--nbd-listen=", "--handover-wait=15s", "--index-memory=2Mi", "--scrub-every=48h", "--metrics-addr=:2", "--health-addr=:3"}, &said, &said,
		func(_ context.Context, c enginepod.ProcessConfig) error {
			got = c
			return nil
		})
	want := enginepod.ProcessConfig{Volume: got.Volume, StoreDir: "/store", JournalDir: "/journal", HolderSocket: "/holder/holder.sock", TLSDir: "/tls", PeerTLSDir: "/peer", Listen: ":1",
		Lease: "engine-x", LeaseID: "id", Namespace: "ns", HandoverWait: 15 * time.Second, IndexMemory: 2 << 20, ScrubEvery: 48 * time.Hour, MetricsAddr: ":2", HealthAddr: ":3", Version: version}
	if status != exitOK || got != want || got.Volume.String() != volume {
		t.Errorf("exit %d, %+v, said %q", status, got, said.String())
	}
}

func TestExitStatus(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want int
		says string
	}{
		"no volume":     {[]string{"--store-dir=/s", "--holder-socket=/h", "--tls-dir=/t"}, exitUsage, "--volume is missing"},
		"no volume id":  {[]string{"--volume=x", "--store-dir=/s", "--holder-socket=/h", "--tls-dir=/t"}, exitUsage, "--volume"},
		"an address":    {[]string{"--volume=" + volume, "--store-dir=/s", "--holder-socket=/h", "--tls-dir=/t", "--health-addr=x"}, exitUsage, "--health-addr x: want host:port"},
		"a short scrub": {[]string{"--volume=" + volume, "--store-dir=/s", "--holder-socket=/h", "--tls-dir=/t", "--scrub-every=1s"}, exitUsage, "want at least 1m0s"},
		"an argument":   {[]string{"engine"}, exitUsage, "engine"},
		"unknown flag":  {[]string{"--volumes=1"}, exitUsage, "--volumes"},
		"a failed lock": {[]string{"--volume=" + volume, "--store-dir=/s", "--holder-socket=/h", "--tls-dir=/t"}, exitFailed, "it failed"},
	} {
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer
			status := execute(context.Background(), tt.args, &said, &said, func(context.Context, enginepod.ProcessConfig) error { return errors.New("it failed") })
			if status != tt.want || !strings.Contains(said.String(), tt.says) {
				t.Errorf("exit %d, want %d; said %q, want %q in it", status, tt.want, said.String(), tt.says)
			}
		})
	}
}
