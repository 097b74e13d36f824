// Package endsignal tells a process that it is to end.
//
// It exists because a signal can be left lying. The kernel gives one that is
// meant for a process to its main thread, if that does not block it, and a
// thread sees its signals when it returns to its program. One that waits for a
// FUSE server's answer, as the holder's do while an engine is away, returns
// when there is one: a process that is told to end then would not learn of it
// for as long. In a program that imports this package the main thread runs
// nothing but main, so that it waits for nothing that the kernel does not break
// off for a signal.
package endsignal

import (
	"context"
	"os"
	"os/signal"
	"runtime"

	"syscall"
)

// Before main, a goroutine that is locked is locked to the main thread.
func init() { runtime.LockOSThread() }

// Context ends with the first SIGINT or SIGTERM. A second one kills the process,
// as it would without this package. It is called once.
func Context() context.Context {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // gives the signals' defaults back
	return ctx
}
