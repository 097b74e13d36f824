package holder

import (
	"context"
	"errors"
	"fmt"
)

var (
	// ErrLeased: another connection, or this one, holds the volume's
	// descriptor. Only one engine may serve a device.
	ErrLeased = errors.New("device is leased to another engine")
	// ErrNotAttached: the holder has no such volume.
	ErrNotAttached = errors.New("volume is not attached")
	// ErrNotServed: the call needs an engine that serves the volume, and this
	// connection does not hold its lease.
	ErrNotServed = errors.New("volume is not served by this connection")
	// ErrBusy: the volume's block device is mounted or otherwise in use.
	ErrBusy = errors.New("device is in use")
	// ErrInvalid: a volume id or configuration that cannot be, or that differs
	// from how the volume is attached.
	ErrInvalid = errors.New("invalid request")
	// ErrSuperseded: the descriptor was handed to another engine after it was
	// handed to the one that gives it back.
	ErrSuperseded = errors.New("descriptor was handed to another engine since")
	// ErrForeign: what was given back is no descriptor of the volume's mount.
	ErrForeign = errors.New("descriptor is not of the volume's mount")
	// ErrFull: the holder has MaxVolumes volumes already.
	ErrFull = errors.New("holder has no room for another volume")
	// ErrVersion: holder and client speak different protocol versions.
	ErrVersion = errors.New("unsupported holder protocol version")
	// ErrTrouble: the volume's engine is there and says why it cannot serve a device.
	ErrTrouble = errors.New("engine cannot serve its device")
	// ErrClosed: the connection to the holder is gone.
	ErrClosed = errors.New("connection to the holder is closed")
)

// errEnding is what a call gets that comes, or is under way, at the holder's end. For
// a client that is the end of the connection, of which it has heard early: the next
// holder may answer the call.
var errEnding = fmt.Errorf("the holder is ending: %w", ErrClosed)

// codes are the errors that keep their identity as they travel. An error without
// a code arrives with its text alone; of several that match, the first counts.
var codes = []struct {
	code     string
	sentinel error
}{
	{"leased", ErrLeased},
	{"not-attached", ErrNotAttached},
	{"not-served", ErrNotServed},
	{"busy", ErrBusy},
	{"invalid", ErrInvalid},
	{"superseded", ErrSuperseded},
	{"foreign", ErrForeign},
	{"full", ErrFull},
	{"version", ErrVersion},
	{"ending", ErrClosed},                  // errEnding, in a reply
	{"deadline", context.DeadlineExceeded}, // the holder and its client have the same one
}

// wireError is an error in a reply.
type wireError struct {
	Code string `json:"code,omitempty"`
	Text string `json:"text"`
}

func encodeError(err error) *wireError {
	if err == nil {
		return nil
	}
	w := &wireError{Text: err.Error()}
	for _, c := range codes {
		if errors.Is(err, c.sentinel) {
			w.Code = c.code
			break
		}
	}
	return w
}

// remoteError is a holder's error on the client's side: its text is the
// holder's, and it is the sentinel that the holder meant.
type remoteError struct {
	text     string
	sentinel error // nil if it had none
}

func (e *remoteError) Error() string { return "holder: " + e.text }
func (e *remoteError) Unwrap() error { return e.sentinel }

func (w *wireError) decode() error {
	if w == nil {
		return nil
	}
	remote := &remoteError{text: w.Text}
	for _, c := range codes {
		if c.code == w.Code {
			remote.sentinel = c.sentinel
		}
	}
	return remote
}
