package main

import (
	"errors"

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

// usageError means exit status 2.
type usageError = roleflags.UsageError

func misuse(format string, args ...any) error { return roleflags.Misuse(format, args...) }
