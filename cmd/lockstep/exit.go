package main

import (
	"errors"
	"fmt"
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

// usageError is a command line that cannot be understood or may not be obeyed
// as it stands: exit status 2.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

func misuse(format string, args ...any) error {
	return &usageError{message: fmt.Sprintf(format, args...)}
}
