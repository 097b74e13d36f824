package harness

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Interruptible returns a context that ends when the program is told to end, so
// that it can take away what it made: by SIGINT, by SIGTERM, by SIGHUP because
// the terminal or the connection is gone, or because writing to out, which is
// the standard output, failed: then whoever read it is gone. stop lets go of
// the signals again.
func Interruptible() (ctx context.Context, out io.Writer, stop context.CancelFunc) {
	told, ignore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	ctx, gone := context.WithCancel(told)
	// Without this a write to a pipe that nobody reads ends the program at once,
	// see os/signal. The signal itself tells nothing: sockets cause it as well.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return ctx, &listened{to: os.Stdout, gone: gone}, func() { gone(); ignore() }
}

// listened calls gone when it cannot be written to.
type listened struct {
	to   io.Writer
	gone func()
}

func (l *listened) Write(b []byte) (int, error) {
	n, err := l.to.Write(b)
	if err != nil {
		l.gone()
	}
	return n, err
}
