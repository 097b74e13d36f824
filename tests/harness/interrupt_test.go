package harness

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// interruptible in the environment makes this test binary a program that says
// what ended it.
const interruptible = "LOCKSTEP_TEST_INTERRUPTIBLE"

func TestMain(m *testing.M) {
	if os.Getenv(interruptible) != "" {
		os.Exit(beInterruptible())
	}
	os.Exit(m.Run())
}

// beInterruptible writes lines until it is told to end, and then takes its time
// as a clean-up does.
func beInterruptible() int {
	ctx, out, stop := Interruptible()
	defer stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		fmt.Fprintln(out, "running") //nolint:errcheck // that is what ends it
		<-tick.C
	}
	for range 3 {
		fmt.Fprintln(out, "cleaning up") //nolint:errcheck // nobody may be there
		<-tick.C
	}
	fmt.Fprintln(os.Stderr, "cleaned up")
	return 1
}

func TestInterruptible(t *testing.T) {
	cases := map[string]func(running *exec.Cmd, stdout io.Closer) error{
		"interrupt":     func(c *exec.Cmd, _ io.Closer) error { return c.Process.Signal(os.Interrupt) },
		"terminate":     func(c *exec.Cmd, _ io.Closer) error { return c.Process.Signal(syscall.SIGTERM) },
		"hang up":       func(c *exec.Cmd, _ io.Closer) error { return c.Process.Signal(syscall.SIGHUP) },
		"reader leaves": func(_ *exec.Cmd, stdout io.Closer) error { return stdout.Close() },
	}
	for name, end := range cases {
		t.Run(name, func(t *testing.T) {
			c := exec.Command("/proc/self/exe")
			c.Env = append(os.Environ(), interruptible+"=yes")
			stdout, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			stderr, err := c.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "running\n" {
				t.Fatalf("it wrote %q, %v", line, err)
			}
			if err := end(c, stdout); err != nil {
				t.Fatal(err)
			}
			said, err := io.ReadAll(stderr)
			if string(said) != "cleaned up\n" {
				t.Errorf("it ended with %q, %v", said, err)
			}
			if err := c.Wait(); c.ProcessState.ExitCode() != 1 {
				t.Errorf("ended by %v", err)
			}
		})
	}
}
