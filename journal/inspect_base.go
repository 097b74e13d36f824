package journal

import (
	"context"
	"errors"
	"slices"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// openSums looks at the checksums of the base.
func (in *inspector) openSums() error {
	s := in.s
	s.summed.Store(s.state.Summed)
	file, err := s.cfg.FS.OpenReadOnly(s.cfg.file(baseSumsFile))
	if errors.Is(err, vfs.ErrNotExist) && s.state.Summed == 0 {
		return nil
	}
	if err == nil {
		in.files = append(in.files, file)
	}
	err = s.checkSums(file, err, &s.state)
	if err != nil {
		s.sums.file = nil // nothing can be compared
	}
	return in.damage(err)
}

// verifyBase compares the base with its checksums, as far as it has some.
func (in *inspector) verifyBase(ctx context.Context) error {
	s := in.s
	if s.base == nil || s.sums.file == nil || in.report.BaseBytes < s.state.SizeBytes {
		return nil
	}
	batch, err := s.unfinishedLocked() // nobody else uses this Store
	if err != nil {
		return nil // reported by checkPaths
	}
	if slices.ContainsFunc(batch, func(part pathPart) bool { return part.file == nil }) {
		return nil // reported; what the base must hold is not known without it
	}
	return s.checkBase(ctx, 0, s.state.SizeBytes, baseCheck{
		found: func(d damagedSectors) error {
			unfinished, err := d.isUnfinished(batch)
			if err == nil && !unfinished {
				err = d.err()
			}
			return in.damage(err)
		},
		unreadable: func(_ int64, err error) error { return err },
		each:       func(int64, int64) error { return nil },
	})
}
