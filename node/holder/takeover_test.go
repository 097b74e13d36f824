package holder_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/node/holder"
)

// startFio runs fio in the background. Its result comes on the channel, with
// the end of what it said if it failed.
func startFio(t *testing.T, args ...string) <-chan error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	fio := exec.CommandContext(ctx, "fio", args...)
	fio.Dir = t.TempDir()
	out := &tail{}
	fio.Stdout, fio.Stderr = out, out
	if err := fio.Start(); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		if err := fio.Wait(); err != nil {
			result <- fmt.Errorf("fio: %w\n%s", err, out.text)
			return
		}
		result <- nil
	}()
	return result
}

// tail keeps the end of a program's output.
type tail struct{ text []byte }

func (w *tail) Write(p []byte) (int, error) {
	w.text = append(w.text, p...)
	w.text = w.text[max(len(w.text)-4096, 0):]
	return len(p), nil
}

// fioErrors is the number of errors in a JSON report of fio, which begins with a
// line of text if it was interrupted.
func fioErrors(t testing.TB, path string) int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Jobs []struct {
			Error       int `json:"error"`
			TotalErrors int `json:"total_err"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(text[max(0, bytes.IndexByte(text, '{')):], &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Jobs) != 1 {
		t.Fatalf("fio reported %d jobs", len(report.Jobs))
	}
	return report.Jobs[0].Error + report.Jobs[0].TotalErrors
}

// TestServeStopsAndContinues hands a device over without a kill: Serve ends in
// the middle of I/O, and another one continues.
func TestServeStopsAndContinues(t *testing.T) {
	requireTools(t, "fio")
	n := startNode(t)
	dev, err := openFileDevice(n.newFile(32<<20), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Close() })
	now := n.serve("vol", dev, 512)
	fio := startFio(t, "--name=verify", "--filename="+now.device, "--rw=randwrite", "--bs=4k",
		"--ioengine=libaio", "--direct=1", "--iodepth=32", "--size=32m", "--loops=4",
		"--verify=crc32c", "--verify_state_save=0", "--verify_fatal=1")
	for range 10 {
		if err := now.stop(); err != nil {
			t.Fatal(err)
		}
		if err := n.client.Release(testContext(t), "vol"); err != nil {
			t.Fatal(err)
		}
		now = n.serve("vol", dev, 512)
	}
	if err := <-fio; err != nil {
		t.Fatal(err)
	}
}

func TestOneLeaseAtATime(t *testing.T) {
	n := startNode(t)
	config := holder.AttachConfig{Volume: "vol", BlockBytes: 512}
	engine := n.startEngine("vol", n.newFile(1<<20))
	if _, err := n.client.Attach(testContext(t), config); !errors.Is(err, holder.ErrLeased) {
		t.Fatalf("attach while an engine serves: %v, want ErrLeased", err)
	}
	if _, err := n.client.AttachLoop(testContext(t), "vol"); !errors.Is(err, holder.ErrNotServed) {
		t.Fatalf("attach loop device of another's volume: %v, want ErrNotServed", err)
	}
	engine.kill()
	second, err := n.client.Attach(testContext(t), config)
	if err != nil {
		t.Fatalf("attach after the engine was killed: %v", err)
	}
	_ = second.Conn.Close()
	if !second.Takeover {
		t.Error("a descriptor that was handed out before came without takeover")
	}
	if _, err := n.client.Attach(testContext(t), config); !errors.Is(err, holder.ErrLeased) {
		t.Fatalf("attach twice on one connection: %v, want ErrLeased", err)
	}
}

// TestAttachLoopWaitsForTheNextEngine has an engine die between the request for
// the block device and the first read: the call that the holder left in the
// kernel must not keep the next engine from the descriptor.
func TestAttachLoopWaitsForTheNextEngine(t *testing.T) {
	n := startNode(t)
	client, err := holder.Dial(testContext(t), n.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	session, err := client.Attach(testContext(t), holder.AttachConfig{Volume: "vol", BlockBytes: 512})
	if err != nil {
		t.Fatal(err)
	}
	brief, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if path, err := client.AttachLoop(brief, "vol"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("attach loop device that nobody serves: %q, %v", path, err)
	}
	_ = session.Conn.Close()
	_ = client.Close()
	engine := n.startEngine("vol", n.newFile(1<<20))
	if got := deviceBytes(t, engine.device); got != 1<<20 {
		t.Errorf("device of %d bytes", got)
	}
	if err := n.client.Detach(testContext(t), "vol", false); err != nil {
		t.Error(err)
	}
}

// playSilentEngine is an engine process that has a descriptor and answers nothing. It
// prints a line once it has it.
func playSilentEngine(socket, volume string) error {
	config := holder.KeeperConfig{Socket: socket, AttachConfig: holder.AttachConfig{Volume: volume, BlockBytes: 512}}
	if _, err := holder.Keep(context.Background(), config); err != nil {
		return err
	}
	fmt.Println("attached")
	select {}
}

// TestEngineDiesAsItIsBack: an engine that dies while it gives its descriptor to the
// next holder, or when that has it.
func TestEngineDiesAsItIsBack(t *testing.T) {
	n := startKeepingNode(t)
	silent := n.startEngineAs("silent-engine", "vol", "", nil)
	n.replaceHolder()
	n.await("the engine brings its descriptor back", func() bool {
		v, found := n.describe("vol")
		return found && v.Leased
	})
	silent.kill()
	engine := n.startKeepingEngine("vol", n.newFile(1<<20))
	if err := awaitResult(t, readSector(t, engine.device)); err != nil {
		t.Error(err)
	}
	engine.kill()
	if err := n.client.Detach(testContext(t), "vol", false); err != nil {
		t.Error(err)
	}
}
