package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// fioRun is a fio that writes at random and reads everything back to compare.
type fioRun struct {
	cmd    *exec.Cmd
	output *bytes.Buffer
	exited chan error
}

// startFio writes to a device until stop; what it wrote is verified as it goes.
func startFio(t *testing.T, env *harness.Env, device string) *fioRun {
	t.Helper()
	f := &fioRun{output: &bytes.Buffer{}, exited: make(chan error, 1)}
	f.cmd = exec.Command("fio", "--name=verify", "--filename="+device, "--rw=randwrite", "--bs=4k", "--direct=1", "--ioengine=libaio",
		"--iodepth=8", "--rate_iops=500", "--verify=crc32c", "--verify_backlog=256", "--verify_fatal=1", "--verify_state_save=0",
		"--time_based", "--runtime=600", "--size=64m", "--aux-path="+env.Dir)
	f.cmd.Stdout, f.cmd.Stderr = f.output, f.output
	check(t, f.cmd.Start())
	go func() { f.exited <- f.cmd.Wait() }()
	t.Cleanup(func() { _ = f.cmd.Process.Kill() }) // it may have ended
	return f
}

// stop ends fio in order; an error if it had ended by itself or saw one.
func (f *fioRun) stop() error {
	select {
	case err := <-f.exited:
		return fmt.Errorf("fio ended early: %w: %s", err, f.output)
	default:
	}
	if err := f.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	select {
	case err := <-f.exited:
		// Interrupted it ends with 128 at most if there was no error, and by the
		// signal itself before it has begun.
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 128 && exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGINT) {
			return fmt.Errorf("fio: %w: %s", err, f.output)
		}
		if bytes.Contains(f.output.Bytes(), []byte("err=")) && !bytes.Contains(f.output.Bytes(), []byte("err= 0")) {
			return fmt.Errorf("fio saw an error: %s", f.output)
		}
		return nil
	case <-time.After(30 * time.Second):
		return fmt.Errorf("fio does not end: %s", f.output)
	}
}
