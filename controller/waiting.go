package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/lockstep-csi/lockstep/controller/catalog"
)

// errTakenOff ends an attachment that nobody wants any more.
var errTakenOff = errors.New("the volume is to be taken off the node")

// waiting are the attachments under way, by volume id. One may wait as long as the engine
// does not come, which may be for ever, holds the volume's lock meanwhile, and goes on
// when its caller has given up. Who takes the volume off the node ends it.
type waiting struct {
	mu  sync.Mutex // guards all
	all map[string]attempt
}

type attempt struct {
	node string
	end  context.CancelCauseFunc
}

// begin returns the context of an attachment, and what to call when it is over. The
// volume's lock is held.
func (w *waiting) begin(ctx context.Context, id, node string) (attaching context.Context, over func()) {
	attaching, end := context.WithCancelCause(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[string]attempt{}
	}
	w.all[id] = attempt{node, end}
	return attaching, func() {
		w.mu.Lock()
		delete(w.all, id)
		w.mu.Unlock()
		end(nil)
	}
}

// end ends the attachment of a volume to a node, or with an empty node to any.
func (w *waiting) end(id, node string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a, ok := w.all[id]; ok && (node == "" || a.node == node) {
		a.end(errTakenOff)
	}
}

// attach has the backend attach a volume as its publish record says, until somebody takes
// it off the node.
func (s *Server) attach(ctx context.Context, v catalog.Volume) error {
	attaching, over := s.waiting.begin(ctx, v.ID.String(), v.Publish.Node)
	defer over()
	err := s.cfg.Backend.Attach(attaching, v.ID, v.Publish.Node, attachOptions(v))
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(attaching), errTakenOff):
		return fmt.Errorf("attach: %w: %w: %w", ErrBusy, errTakenOff, err)
	}
	return fmt.Errorf("attach: %w", err)
}
