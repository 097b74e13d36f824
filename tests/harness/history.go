package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// History is the store of a volume whose site does not run: what a power loss
// at any position of its journal would have left on the volume. Nothing writes
// to it.
type History struct {
	store *journal.Store
}

// OpenHistory opens the store of a volume of a stopped site. The caller closes
// it; so does the Env's Close.
func (s *Site) OpenHistory(v *Volume) (*History, error) {
	stores, err := filepath.Glob(filepath.Join(s.Config.Root, "volumes", v.ID, "store-*"))
	if err == nil && len(stores) != 1 {
		err = fmt.Errorf("it has %d stores, want one", len(stores))
	}
	if err != nil {
		return nil, fmt.Errorf("find the store of %s: %w", v.Name, err)
	}
	store, err := journal.Open(journal.Config{FS: vfs.OS{}, Dir: stores[0]})
	if err != nil {
		return nil, fmt.Errorf("open the store of %s: %w", v.Name, err)
	}
	h := &History{store: store}
	s.env.Undo(h.Close)
	return h, nil
}

// Close closes the store. Idempotent.
func (h *History) Close() error { return h.store.Close() }

// PositionOf is where a checkpoint's record is.
func (h *History) PositionOf(checkpoint uint64) (journal.Position, error) {
	for _, c := range h.store.Checkpoints() {
		if c.Number == journal.CheckpointNumber(checkpoint) {
			return c.Position, nil
		}
	}
	return journal.Position{}, fmt.Errorf("the store has no checkpoint %d inside its horizon", checkpoint)
}

// Since lists a position and all behind it up to the tip, oldest first.
func (h *History) Since(from journal.Position) []journal.Position {
	var all []journal.Position
	for _, run := range h.store.Path() {
		for seq := run.First; seq <= run.Last; seq++ {
			at := journal.Position{Timeline: run.Timeline, Seq: seq}
			if at == from || len(all) > 0 {
				all = append(all, at)
			}
		}
	}
	return all
}

// exportBytes is how much of an image is copied at a time.
const exportBytes = 1 << 20

// Export writes the volume's content at a position to a new sparse file.
func (h *History) Export(ctx context.Context, at journal.Position, file string) (err error) {
	view, err := h.store.View(at)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Truncate(view.SizeBytes()); err != nil {
		return err
	}
	buffer := make([]byte, exportBytes)
	for off := int64(0); ; {
		start, length, err := view.NextData(off)
		if err != nil || length == 0 {
			return err
		}
		for off = start; off < start+length; {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			p := buffer[:min(start+length-off, exportBytes)]
			if err := errors.Join(view.ReadAt(p, off), writeAll(out, p, off)); err != nil {
				return fmt.Errorf("export %s: %w", at, err)
			}
			off += int64(len(p))
		}
	}
}

func writeAll(out io.WriterAt, p []byte, off int64) error {
	_, err := out.WriteAt(p, off)
	return err
}
