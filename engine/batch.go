package engine

import (
	"context"

	"github.com/lockstep-csi/lockstep/journal"
)

// MaxBatch is how many writes a BatchWriter takes at once.
const MaxBatch = journal.MaxBatch

// Write is one write of a batch: Data at Offset, as for Device.WriteAt.
type Write = journal.BatchWrite

// BatchWriter is implemented by a Device that takes several writes for little
// more than the price of one.
type BatchWriter interface {
	// WriteBatch stores up to MaxBatch writes, in their order, as if WriteAt
	// had been called for each without fua. On an error a prefix of them may
	// have been stored.
	WriteBatch(ctx context.Context, writes []Write) error
}

var _ BatchWriter = (*Engine)(nil)

// WriteBatch implements BatchWriter. A lack of space is the caller's to meet
// with single writes, which give up history first.
func (e *Engine) WriteBatch(ctx context.Context, writes []Write) error {
	if e.ReadOnly() {
		return ErrReadOnly
	}
	for _, w := range writes {
		if err := e.check(w.Offset, int64(len(w.Data))); err != nil {
			return err
		}
	}
	return mapError(e.admit(ctx, func() error { return e.store.WriteBatch(writes) }))
}
