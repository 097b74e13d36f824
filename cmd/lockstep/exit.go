package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/cmd/roleflags"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// errDeclined is returned when a person answered a question with no.
var errDeclined = errors.New("not confirmed: nothing was changed")

// errInterrupted is returned when a signal ended a wait for a person.
var errInterrupted = errors.New("interrupted: nothing was changed")

// explainInterrupt says what an interrupt has left, instead of that it came.
func explainInterrupt(err error, left string) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("interrupted: %s", left)
	}
	return err
}

// usageError means exit status 2.
type usageError = roleflags.UsageError

func misuse(format string, args ...any) error { return roleflags.Misuse(format, args...) }
