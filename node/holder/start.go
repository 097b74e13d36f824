package holder

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// dialInterval is how often Start looks whether its holder listens yet.
const dialInterval = 10 * time.Millisecond

// StartConfig says how to reach a holder and how to start one.
type StartConfig struct {
	Socket string   // as in Config
	Exe    string   // program that calls Run with this Socket
	Args   []string // its arguments, without the program's name
	Env    []string // its environment; nil means that of this process
	Log    *os.File // its standard error; nil means /dev/null
}

// Start connects to the holder at config.Socket, and starts one if there is
// none. The holder is put into a session of its own, so that signals to this
// process's group or terminal do not reach it, and outlives this process. ctx
// bounds the start, not the holder's life.
//
// If the holder ends before this process, a goroutine collects its exit status;
// that goroutine is the only thing of Start that stays.
func Start(ctx context.Context, config StartConfig) (*Client, error) {
	if c, err := connect(ctx, config.Socket); err == nil {
		return c, nil
	}
	cmd := exec.Command(config.Exe, config.Args...)
	cmd.Env = config.Env
	cmd.Dir = "/"
	if config.Log != nil {
		cmd.Stderr = config.Log
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start holder: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return await(ctx, config.Socket, ended)
}

// await connects as soon as a holder listens. That can be another one than was
// just started, when two processes start one at once: the later one waits for
// the directory's lock and ends in error when it does not get it.
func await(ctx context.Context, socket string, ended <-chan error) (*Client, error) {
	ticker := time.NewTicker(dialInterval)
	defer ticker.Stop()
	for {
		c, err := connect(ctx, socket)
		if err == nil {
			return c, nil
		}
		select {
		case exit := <-ended:
			return nil, fmt.Errorf("start holder: it ended before it listened: %w", exitError(exit))
		case <-ticker.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("start holder: %w (last error: %w)", ctx.Err(), err)
		}
	}
}

// connect dials and makes sure that the holder answers: one that is just ending
// would still accept.
func connect(ctx context.Context, socket string) (*Client, error) {
	c, err := Dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	if _, err := c.List(ctx); err != nil {
		_ = c.Close() // of no interest next to why it is being closed
		return nil, err
	}
	return c, nil
}

// exitError says why a process ended, also when it ended in success.
func exitError(err error) error {
	if err == nil {
		return ErrClosed
	}
	return err
}
