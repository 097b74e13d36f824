package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/journal"
)

var (
	// errTakenOff ends an attachment that nobody wants any more.
	errTakenOff = errors.New("the volume is to be taken off the node")
	// errGivesWay ends an expansion; it is tried again.
	errGivesWay = errors.New("the volume is to be attached or detached first")
)

// waiting are the attachments and expansions under way, by volume id. One may wait as long
// as the engine does not come, ten minutes at a time, holds the volume's lock meanwhile,
// and goes on when its caller has given up. Who takes the volume off the node ends an
// attachment to that one; an expansion gives way to whatever attaches or detaches.
type waiting struct {
	mu  sync.Mutex // guards all
	all map[string]attempt
}

// attempt is an attachment to a node, or with an empty node an expansion.
type attempt struct {
	node string
	end  context.CancelCauseFunc
}

// begin returns the context of an attempt, and what to call when it is over. The volume's
// lock is held.
func (w *waiting) begin(ctx context.Context, id journal.VolumeID, node string) (trying context.Context, over func()) {
	trying, end := context.WithCancelCause(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[string]attempt{}
	}
	w.all[id.String()] = attempt{node, end}
	return trying, func() {
		w.mu.Lock()
		delete(w.all, id.String())
		w.mu.Unlock()
		end(nil)
	}
}

// takeOff ends what a detachment from a node does not wait for; empty: from any.
func (w *waiting) takeOff(id, node string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a, ok := w.all[id]; ok && a.node != "" && (node == "" || a.node == node) {
		a.end(errTakenOff)
	}
}

// giveWay ends an expansion.
func (w *waiting) giveWay(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a, ok := w.all[id]; ok && a.node == "" {
		a.end(errGivesWay)
	}
}

// afterHalf has fn called once half of the time has passed that a call waits for a volume's
// lock, unless the returned function is called before: what is about to end by itself is
// let do so.
func (s *Server) afterHalf(fn func()) (entered func()) {
	timer := time.AfterFunc(s.cfg.LockWait/2, fn)
	return func() { timer.Stop() }
}

// ended is the error of an attempt, which the caller is to repeat if it was ended here.
func ended(trying context.Context, err error) error {
	if cause := context.Cause(trying); err != nil && (errors.Is(cause, errTakenOff) || errors.Is(cause, errGivesWay)) {
		return fmt.Errorf("%w: %w: %w", ErrBusy, cause, err)
	}
	return err
}

// attach has the backend attach a volume as its publish record says, until somebody takes
// it off the node.
func (s *Server) attach(ctx context.Context, v catalog.Volume) error {
	attaching, over := s.waiting.begin(ctx, v.ID, v.Publish.Node)
	defer over()
	if err := ended(attaching, s.cfg.Backend.Attach(attaching, v.ID, v.Publish.Node, attachOptions(v))); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return nil
}

// grow has the backend expand a volume as its record says, until somebody attaches or
// detaches it.
func (s *Server) grow(ctx context.Context, v catalog.Volume) (size int64, err error) {
	growing, over := s.waiting.begin(ctx, v.ID, "")
	defer over()
	size, err = s.cfg.Backend.ExpandStore(growing, v.ID, v.ExpandTo)
	return size, ended(growing, err)
}
