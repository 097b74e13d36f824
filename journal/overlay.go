package journal

import (
	"errors"
	"fmt"
)

// An overlay is a store whose base is a view of another one: it holds what was
// written to a writable fork. It is made and opened with Config.Origin, and is
// otherwise a store as any, but that it never destages, so that its own base
// stays empty, and keeps its size.

// Allowance bounds what segments take that are in use or ready to be used, over
// several stores perhaps. Those that a store has when it is opened are the caller's to
// count: Stats.JournalBytes. A file that was dropped is not counted, and is removed when
// its last reader has gone. Its
// methods may be called concurrently, and with locks of a store held: they must
// not call it.
type Allowance interface {
	// Take is asked before a segment of so many bytes is made. An error that wraps
	// vfs.ErrNoSpace refuses it: the append that needs it then fails with ErrFull.
	// With renewing the segment is for what is to be appended again, so that more than
	// it takes can be given back: two such segments of a store should be granted beyond
	// what is allowed.
	Take(bytes int64, renewing bool) error
	// Give is told of a segment that was dropped, or could not be made.
	Give(bytes int64)
}

func (s *Store) takeAllowance(bytes int64, renewing bool) error {
	if s.cfg.Allowance == nil {
		return nil
	}
	return s.cfg.Allowance.Take(bytes, renewing)
}

func (s *Store) giveAllowance(bytes int64) {
	if s.cfg.Allowance != nil && bytes > 0 {
		s.cfg.Allowance.Give(bytes)
	}
}

// image is what a base, or what stands for it, is asked where it has data: a
// file, or a view.
type image interface {
	// NextData returns the first run at or after off that may hold other bytes
	// than zeroes; length 0 means that there is none.
	NextData(off int64) (start, length int64, err error)
}

// isOverlay reports whether the store's base is its origin's.
func (s *Store) isOverlay() bool { return s.cfg.Origin != nil }

// underlay is what is seen where the journal has nothing.
func (s *Store) underlay() image {
	if s.isOverlay() {
		return s.cfg.Origin
	}
	return s.base
}

// readOrigin fills p from what an overlay lies over. Damage there is counted and
// logged by the origin's store: here it is ErrCorrupt and no *CorruptError, whose
// file would be looked for in the wrong place.
func (s *Store) readOrigin(p []byte, off int64) error {
	err := s.cfg.Origin.ReadAt(p, off)
	if err == nil {
		return nil
	}
	below := fmt.Sprintf("read %d bytes at %d of what lies below, volume %s at %s", len(p), off, s.cfg.Origin.Volume(), s.cfg.Origin.Position())
	if errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%s: %w: %v", below, ErrCorrupt, err)
	}
	return fmt.Errorf("%s: %w", below, err)
}

// validateOrigin refuses what an overlay does not have.
func (c *Config) validateOrigin() error {
	if c.Origin == nil {
		return nil
	}
	if c.JournalDir != "" || c.JournalBytes != 0 || c.Window != 0 || c.History.thins() {
		return fmt.Errorf("validate journal configuration: an overlay keeps all that it has, in one directory: JournalDir, JournalBytes, Window and History must not be set")
	}
	return nil
}

// setOrigin makes an identity that of an overlay, where there is an origin.
func (i *identity) setOrigin(origin *View) {
	if origin != nil {
		i.Format, i.Origin, i.OriginAt = overlayFormat, origin.Volume().String(), origin.Position().String()
	}
}

// checkOrigin makes sure that an overlay names an origin and a store none.
func (i *identity) checkOrigin() error {
	if i.Format == identityFormat {
		if i.Origin != "" || i.OriginAt != "" {
			return fmt.Errorf("a store with origin %q at %q", i.Origin, i.OriginAt)
		}
		return nil
	}
	if _, err := ParseVolumeID(i.Origin); err != nil {
		return err
	}
	at, err := ParsePosition(i.OriginAt)
	if err == nil && at.String() != i.OriginAt {
		err = fmt.Errorf("position %q", i.OriginAt)
	}
	if err == nil && i.Journal != "" {
		err = fmt.Errorf("an overlay with journal %q", i.Journal)
	}
	return err
}

// matchOrigin makes sure that what is on disk is opened over what it was made
// over: ErrOverlay, ErrForeign.
func (i *identity) matchOrigin(origin *View) error {
	if i.Format == overlayFormat && origin == nil {
		return fmt.Errorf("it lies over volume %s at %s: %w", i.Origin, i.OriginAt, ErrOverlay)
	}
	wanted := *i
	wanted.Format, wanted.Origin, wanted.OriginAt = identityFormat, "", ""
	wanted.setOrigin(origin)
	if wanted != *i {
		return fmt.Errorf("it is a %s with origin %q at %q, and not a %s with origin %q at %q: %w",
			i.Format, i.Origin, i.OriginAt, wanted.Format, wanted.Origin, wanted.OriginAt, ErrForeign)
	}
	return nil
}
