package objectdb

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/lockstep-csi/lockstep/internal/clock"
)

// outcome is what is known about a write after it was tried once.
type outcome int

const (
	applied outcome = iota
	// refused: the server has not carried it out and never will.
	refused
	// overtaken: the object is not as the write expects it. An earlier try of
	// the same write may be the reason.
	overtaken
	// unknown: it may have been carried out, or may still be.
	unknown
)

func outcomeOf(err error) outcome {
	var status apierrors.APIStatus
	var op *net.OpError
	switch {
	case err == nil:
		return applied
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		return overtaken
	case errors.As(err, &status):
		code := status.Status().Code
		if code >= 400 && code < 500 && code != http.StatusRequestTimeout {
			return refused
		}
		return unknown
	case errors.As(err, &op) && op.Op == "dial":
		return refused // there was no connection to send it on
	}
	return unknown
}

// tries paces repeated requests.
type tries struct {
	clock   clock.Clock
	timeout clock.Timer
	delay   time.Duration
}

func newTries(c clock.Clock, patience time.Duration) *tries {
	return &tries{clock: c, timeout: c.NewTimer(patience), delay: firstDelay}
}

func (t *tries) stop() { t.timeout.Stop() }

// next waits until it is time for another try; false when there is none.
func (t *tries) next(ctx context.Context) bool {
	timer := t.clock.NewTimer(t.delay)
	defer timer.Stop()
	t.delay = min(2*t.delay, longestDelay)
	select {
	case <-timer.C():
		return true
	case <-t.timeout.C():
		return false
	case <-ctx.Done():
		return false
	}
}
