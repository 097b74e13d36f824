package holder_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node/holder"
)

const (
	// killsEachRound is how often an engine is killed; LOCKSTEP_TEST_ROUNDS
	// multiplies it.
	killsEachRound = 10
	killsBytes     = 64 << 20
	// killsWithin bounds the wait for fio to get on after a kill.
	killsWithin = time.Minute
	// blockEnv is the logical block size that an engine process asks for.
	blockEnv = "LOCKSTEP_TEST_BLOCK"
)

// TestEngineKilledUnderVerify replaces the engine again and again by SIGKILL
// while fio writes and verifies: nothing may fail, and nothing may be lost. Long
// requests are where a kill finds the kernel copying. A journaled engine recovers
// its store each time; one of a file shows the transport alone.
func TestEngineKilledUnderVerify(t *testing.T) {
	requireTools(t, "fio")
	kills := killsEachRound * testRounds(t)
	for _, c := range []struct {
		role       string
		blockBytes int // of the loop device
		size       string
		depth      string
	}{
		{"engine", 512, "4k", "32"}, {"engine", 512, "1m", "8"},
		{"journal-engine", 512, "4k", "32"}, {"journal-engine", 4096, "4k", "32"},
		{"journal-engine", 512, "512", "16"}, {"journal-engine", 4096, "1m", "8"},
	} {
		t.Run(fmt.Sprintf("%s/%d/%s", c.role, c.blockBytes, c.size), func(t *testing.T) {
			n := startNode(t)
			start := func(file string) *engineProcess {
				return n.startEngineAs(c.role, "vol", file, func(cmd *exec.Cmd) {
					cmd.Env = append(cmd.Env, fmt.Sprint(blockEnv, "=", c.blockBytes))
				})
			}
			n.killUnderVerify(kills, c.blockBytes, start, "--bs="+c.size, "--iodepth="+c.depth)
		})
	}
}

// killUnderVerify kills engines that start makes of one file while fio runs, each
// after fio has got on since the one before.
func (n *node) killUnderVerify(kills, blockBytes int, start func(file string) *engineProcess, args ...string) {
	n.Helper()
	file := n.newFile(killsBytes)
	engine := start(file)
	if got := atoi(n, run(n, "blockdev", "--getss", engine.device)); got != blockBytes {
		n.Fatalf("the device has blocks of %d bytes, want %d", got, blockBytes)
	}
	fio := n.startVerify(engine.device, args...)
	var pauses []time.Duration
	for len(pauses) < kills {
		fio.awaitProgress(engine.device)
		begin := time.Now()
		engine.kill()
		engine = start(file)
		pauses = append(pauses, time.Since(begin))
	}
	fio.awaitProgress(engine.device)
	fio.finish()
	slices.Sort(pauses)
	n.Logf("%d kills, no error; from kill to serving again: median %v, longest %v", kills, pauses[kills/2], pauses[kills-1])
	if err := n.client.Detach(testContext(n), "vol", false); err != nil {
		n.Error(err)
	}
}

// verify is a fio that writes at random and reads back to compare, until finish.
type verify struct {
	*node
	cmd    *exec.Cmd
	exited chan error
	said   *tail
	report string
}

func (n *node) startVerify(device string, args ...string) *verify {
	n.Helper()
	f := &verify{node: n, exited: make(chan error, 1), said: &tail{}, report: filepath.Join(n.dir, "fio.json")}
	f.cmd = exec.Command("fio", append([]string{"--name=verify", "--filename=" + device, "--rw=randrw", "--ioengine=libaio", "--direct=1",
		"--size=" + strconv.Itoa(killsBytes), "--fsync=64", "--verify=crc32c", "--verify_state_save=0", "--verify_backlog=64", "--verify_fatal=1",
		"--time_based", "--runtime=1d", "--output-format=json", "--output=" + f.report}, args...)...)
	f.cmd.Dir, f.cmd.Stdout, f.cmd.Stderr = n.dir, f.said, f.said
	if err := f.cmd.Start(); err != nil {
		n.Fatal(err)
	}
	go func() { f.exited <- f.cmd.Wait() }()
	n.Cleanup(func() { _ = f.cmd.Process.Kill() }) // it may have ended
	return f
}

// awaitProgress returns when the device has served fio for a while: where in its
// work a kill hits the engine is by chance.
func (f *verify) awaitProgress(device string) {
	f.Helper()
	before, begin := f.served(device), time.Now()
	for now := before; now < before+64; now = f.served(device) {
		select {
		case err := <-f.exited:
			f.Fatalf("fio ended early: %v\n%s", err, f.said.text)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Since(begin) > killsWithin {
			f.Fatalf("the device has served %d requests within %v", now-before, killsWithin)
		}
	}
}

// served counts the requests that a device has completed, see the kernel's
// Documentation/block/stat.rst.
func (f *verify) served(device string) int {
	f.Helper()
	text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), "stat"))
	if err != nil {
		f.Fatal(err)
	}
	fields := strings.Fields(string(text))
	return atoi(f, fields[0]) + atoi(f, fields[4])
}

// finish ends fio in order: it must not have seen an error.
func (f *verify) finish() {
	f.Helper()
	if err := f.cmd.Process.Signal(syscall.SIGINT); err != nil {
		f.Fatal(err)
	}
	// Interrupted, fio ends with 128 if there was no error.
	err := <-f.exited
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 128) {
		f.Fatalf("fio: %v\n%s", err, f.said.text)
	}
	if failed := fioErrors(f.TB, f.report); failed != 0 {
		f.Fatalf("fio counted %d errors", failed)
	}
}

// playJournalEngine serves a store in the directory file+".store" as volume until
// it is killed, as playEngine does with the file itself. It makes the store, of the
// file's size, if there is none.
func playJournalEngine(socket, volume, file string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	blockBytes, err := strconv.Atoi(os.Getenv(blockEnv))
	if err != nil {
		return err
	}
	store, err := openOrCreate(ctx, file)
	if err != nil {
		return err
	}
	defer store.Close()
	maintained := make(chan error, 1)
	go func() { maintained <- store.Run(ctx) }()
	client, err := holder.Dial(ctx, socket)
	if err != nil {
		return err
	}
	session, err := client.Attach(ctx, holder.AttachConfig{Volume: volume, BlockBytes: blockBytes})
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- fuse.Serve(ctx, session, engine.New(store), fuse.Options{}) }()
	device, err := client.AttachLoop(ctx, volume)
	if err != nil {
		return err
	}
	fmt.Println(device)
	err = <-served
	stop()
	if errors.Is(err, fuse.ErrUnmounted) {
		err = nil
	}
	return errors.Join(err, <-maintained)
}

// openOrCreate opens the store beside a file. Its journal is small, so that it is
// destaged all the time.
func openOrCreate(ctx context.Context, file string) (*journal.Store, error) {
	cfg := journal.Config{FS: vfs.OS{}, Dir: file + ".store", JournalBytes: killsBytes, SegmentBytes: 4 << 20}
	store, err := journal.Open(cfg)
	if !errors.Is(err, journal.ErrNotStore) {
		return store, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if err := journal.Create(cfg, journal.Spec{Volume: journal.VolumeID{1}, SizeBytes: info.Size()}); err != nil {
		return nil, err
	}
	if store, err = journal.Open(cfg); err != nil {
		return nil, err
	}
	return store, store.Flush(ctx)
}

// testRounds is LOCKSTEP_TEST_ROUNDS.
func testRounds(t testing.TB) int {
	t.Helper()
	text := os.Getenv("LOCKSTEP_TEST_ROUNDS")
	if text == "" {
		return 1
	}
	rounds, err := strconv.Atoi(text)
	if err != nil || rounds < 1 {
		t.Fatalf("LOCKSTEP_TEST_ROUNDS is %q, want a number from 1", text)
	}
	return rounds
}
