package nbd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/engine/frontend/conformance"
)

// These tests put other people's NBD clients against the server.

// tool is the path of a program that the test needs; without it the test is
// skipped.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("not tested against %s: it is not installed", name)
	}
	return path
}

// output runs a program and returns its standard output.
func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}

// uri names an export for tools.
func (r *running) uri(export string) string {
	return fmt.Sprintf("nbd+unix:///%s?socket=%s", export, r.path)
}

const peerDeviceBytes = 32 << 20

// patchy returns a device with data here and there, and the same content in a
// sparse file.
func patchy(t *testing.T) (dev *conformance.Memory, file string) {
	t.Helper()
	dev = conformance.NewMemory(peerDeviceBytes)
	file = filepath.Join(t.TempDir(), "content.raw")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(peerDeviceBytes); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 1))
	for _, off := range []int64{0, 1 << 20, 1<<20 + 128<<10, 7<<20 + 512, peerDeviceBytes - 64<<10} {
		p := make([]byte, 64<<10)
		for i := range p {
			p[i] = byte(1 + random.IntN(255))
		}
		if off == 7<<20+512 {
			p = p[:1536]
		}
		if _, err := f.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
		if err := dev.WriteAt(t.Context(), p, off, true); err != nil {
			t.Fatal(err)
		}
	}
	return dev, file
}

// content is all that a device holds.
func content(t *testing.T, dev *conformance.Memory) []byte {
	t.Helper()
	p := make([]byte, dev.SizeBytes())
	if err := dev.ReadAt(context.Background(), p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// wantFile fails the test unless device and file are equal.
func wantFile(t *testing.T, dev *conformance.Memory, file string) {
	t.Helper()
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, dev), want) {
		t.Fatalf("device and %s differ", file)
	}
}

func TestNbdinfo(t *testing.T) {
	nbdinfo := tool(t, "nbdinfo")
	dev, _ := patchy(t)
	r := serve(t, Config{}, dev)
	view, _ := patchy(t)
	view.SetReadOnly(true)
	if err := r.Add("view@12", view, "a view"); err != nil {
		t.Fatal(err)
	}

	var info struct {
		Exports []struct {
			Name        string `json:"export-name"`
			Description string `json:"description"`
			Size        int64  `json:"export-size"`
			ReadOnly    bool   `json:"is_read_only"`
			MultiConn   bool   `json:"can_multi_conn"`
			Trim        bool   `json:"can_trim"`
			FUA         bool   `json:"can_fua"`
			FastZero    bool   `json:"can_fast_zero"`
			Minimum     int64  `json:"block_size_minimum"`
			Preferred   int64  `json:"block_size_preferred"`
			Maximum     int64  `json:"block_size_maximum"`
		} `json:"exports"`
	}
	out := output(t, nbdinfo, "--list", "--json", r.uri(""))
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if len(info.Exports) != 2 {
		t.Fatalf("%d exports listed, want 2: %s", len(info.Exports), out)
	}
	live, past := info.Exports[1], info.Exports[0]
	if live.Name != "vol" {
		live, past = past, live
	}
	if live.Name != "vol" || live.Description != "a test volume" || live.Size != peerDeviceBytes ||
		live.ReadOnly || !live.MultiConn || !live.Trim || !live.FUA || !live.FastZero ||
		live.Minimum != 512 || live.Preferred != 4096 || live.Maximum != 32<<20 {
		t.Errorf("live export is seen as %+v", live)
	}
	if past.Name != "view@12" || !past.ReadOnly || past.Trim || !past.MultiConn {
		t.Errorf("view is seen as %+v", past)
	}
	output(t, nbdinfo, "--can", "multi-conn", r.uri("vol"))
	output(t, nbdinfo, "--is", "read-only", r.uri("view@12"))

	var runs []struct {
		Offset, Length int64
		Type           int
	}
	out = output(t, nbdinfo, "--map", "--json", r.uri("vol"))
	if err := json.Unmarshal([]byte(out), &runs); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	wantRuns(t, dev, len(runs), func(i int) (int64, int64, bool) {
		return runs[i].Offset, runs[i].Length, runs[i].Type == stateHole|stateZero
	})
}

// wantRuns compares a tool's map of the device with the device's own.
func wantRuns(t *testing.T, dev *conformance.Memory, count int, run func(i int) (off, length int64, zero bool)) {
	t.Helper()
	want, err := dev.BlockStatus(t.Context(), 0, dev.SizeBytes(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	if count != len(want) {
		t.Fatalf("%d runs in the map, want %d", count, len(want))
	}
	for i, w := range want {
		if off, length, zero := run(i); off != w.Offset || length != w.Length || zero != w.Zero {
			t.Errorf("run %d is [%d, +%d) zero %v, want %+v", i, off, length, zero, w)
		}
	}
}

func TestNbdcopy(t *testing.T) {
	nbdcopy := tool(t, "nbdcopy")
	dev, file := patchy(t)
	empty := conformance.NewMemory(peerDeviceBytes)
	r := serve(t, Config{}, dev)
	if err := r.Add("copy", empty, ""); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"asynchronous": {"--connections=4", "--requests=32"},
		"synchronous":  {"--synchronous"},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out.raw")
			output(t, nbdcopy, append(args, r.uri("vol"), out)...)
			wantFile(t, dev, out)
			if err := empty.Discard(t.Context(), 0, peerDeviceBytes); err != nil {
				t.Fatal(err)
			}
			output(t, nbdcopy, append(args, "--flush", file, r.uri("copy"))...)
			wantFile(t, empty, file)
			if !empty.Durable(0, peerDeviceBytes) {
				t.Error("nbdcopy --flush left something that is not durable")
			}
		})
	}
	output(t, nbdcopy, "--allocated", r.uri("vol"), r.uri("copy")) // zeroes without holes
	wantFile(t, empty, file)
}

func TestQemuImg(t *testing.T) {
	qemuImg := tool(t, "qemu-img")
	dev, file := patchy(t)
	copied := conformance.NewMemory(peerDeviceBytes)
	r := serve(t, Config{}, dev)
	if err := r.Add("copy", copied, ""); err != nil {
		t.Fatal(err)
	}

	if out := output(t, qemuImg, "info", r.uri("vol")); !strings.Contains(out, "(33554432 bytes)") {
		t.Errorf("qemu-img info does not show the size:\n%s", out)
	}
	output(t, qemuImg, "compare", "-f", "raw", "-F", "raw", file, r.uri("vol"))
	output(t, qemuImg, "convert", "-n", "-f", "raw", "-O", "raw", file, r.uri("copy"))
	wantFile(t, copied, file)

	qcow := filepath.Join(t.TempDir(), "out.qcow2")
	output(t, qemuImg, "convert", "-f", "raw", "-O", "qcow2", r.uri("vol"), qcow)
	output(t, qemuImg, "compare", "-f", "qcow2", "-F", "raw", qcow, r.uri("vol"))

	var runs []struct {
		Start, Length int64
		Zero          bool
	}
	out := output(t, qemuImg, "map", "--output=json", "-f", "raw", r.uri("vol"))
	if err := json.Unmarshal([]byte(out), &runs); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	wantRuns(t, dev, len(runs), func(i int) (int64, int64, bool) {
		return runs[i].Start, runs[i].Length, runs[i].Zero
	})
}

func TestQemuIO(t *testing.T) {
	qemuIO := tool(t, "qemu-io")
	dev := conformance.NewMemory(peerDeviceBytes)
	r := serve(t, Config{}, dev)
	out := output(t, qemuIO, "-f", "raw",
		"-c", "write -P 0x11 0 1M", "-c", "write -f -P 0x22 1M 64k", "-c", "read -P 0x11 0 1M",
		"-c", "read -P 0x22 1M 64k", "-c", "discard 0 512k", "-c", "read -P 0 0 512k",
		"-c", "write -z 512k 256k", "-c", "write -z -u 768k 128k", "-c", "read -P 0 512k 384k",
		"-c", "read -P 0x11 896k 128k", "-c", "flush", r.uri("vol"))
	if strings.Contains(out, "verification failed") {
		t.Fatalf("qemu-io read back something else:\n%s", out)
	}
	want := make([]byte, peerDeviceBytes)
	copy(want[896<<10:], bytes.Repeat([]byte{0x11}, 128<<10))
	copy(want[1<<20:], bytes.Repeat([]byte{0x22}, 64<<10))
	if !bytes.Equal(content(t, dev), want) {
		t.Fatal("the device holds something else than qemu-io wrote")
	}
	if dev.Counts().FUAWrites == 0 {
		t.Error("write -f did not arrive with FUA")
	}
	if !dev.Durable(0, peerDeviceBytes) {
		t.Error("the flush left something that is not durable")
	}
}

// TestReadOnlyPeers: tools can read a view and cannot change it.
func TestReadOnlyPeers(t *testing.T) {
	nbdcopy, qemuIO := tool(t, "nbdcopy"), tool(t, "qemu-io")
	dev, file := patchy(t)
	dev.SetReadOnly(true)
	r := serve(t, Config{}, dev)
	out := filepath.Join(t.TempDir(), "out.raw")
	output(t, nbdcopy, r.uri("vol"), out)
	wantFile(t, dev, out)
	output(t, qemuIO, "-r", "-f", "raw", "-c", "read 0 1M", r.uri("vol"))

	if out, err := exec.Command(nbdcopy, file, r.uri("vol")).CombinedOutput(); err == nil {
		t.Errorf("nbdcopy wrote to a read-only export:\n%s", out)
	}
	wantFile(t, dev, file)
}

// TestFioVerify writes and verifies over several connections at once.
func TestFioVerify(t *testing.T) {
	fio := tool(t, "fio")
	if !strings.Contains(output(t, fio, "--enghelp"), "nbd") {
		t.Skip("not tested against fio: it was built without the nbd engine")
	}
	dev := conformance.NewMemory(64 << 20)
	r := serve(t, Config{}, dev)
	args := []string{
		"--name=verify", "--ioengine=nbd", "--uri=" + r.uri("vol"),
		"--rw=randrw", "--bssplit=512/10:4k/50:16k/20:64k/15:1m/5", "--blockalign=512",
		"--iodepth=32", "--numjobs=4", "--size=16m", "--offset_increment=16m",
		"--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_async=1",
		"--fsync=64", "--randseed=7", "--verify_state_save=0", "--group_reporting", "--output-format=terse",
	}
	output(t, fio, args...)
	if c := dev.Counts(); c.Writes == 0 || c.Reads == 0 || c.Flushes == 0 {
		t.Errorf("fio did not use the device: %+v", c)
	}
}
