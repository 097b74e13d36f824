package pagecheck

import (
	"encoding/binary"
	"fmt"
)

const (
	pageIDBytes = 8
	// manyFree stands for a count that does not fit the header: it is then the
	// first number of the list.
	manyFree = 0xFFFF
	// freelistChunk is how much of the list is read at once, in bytes.
	freelistChunk = 64 << 10
)

// freelist checks the list of free pages: each is inside the file, and is in
// it once. That none is in use shows when the trees are walked. The order is
// free: bbolt sorts.
func (c *checker) freelist(at ref) error {
	h, err := c.page(at, make([]byte, headerBytes), freelistKind)
	if err != nil {
		return err
	}
	next := int64(at.page)*c.pageBytes + headerBytes
	end := (int64(at.page) + int64(h.overflow) + 1) * c.pageBytes
	wrong := func(what, wanted string, found any) error {
		return &Error{Page: uint64(at.page), Offset: next, What: what, Wanted: wanted, Found: fmt.Sprint(found)}
	}
	buf := make([]byte, min(freelistChunk, end-next))
	count := uint64(h.count)
	if h.count == manyFree {
		if err := readAt(c.file, buf[:pageIDBytes], next); err != nil {
			return err
		}
		next += pageIDBytes
		count = binary.NativeEndian.Uint64(buf)
	}
	if room := uint64(end-next) / pageIDBytes; count > room {
		return wrong("free list", fmt.Sprintf("at most %d pages", room), count)
	}
	for last := next + int64(count)*pageIDBytes; next < last; {
		chunk := buf[:min(int64(len(buf)), last-next)]
		if err := readAt(c.file, chunk, next); err != nil {
			return err
		}
		for ; len(chunk) > 0; chunk = chunk[pageIDBytes:] {
			id := pageID(binary.NativeEndian.Uint64(chunk))
			if id < 2 || id >= c.highWater {
				return wrong("free page", fmt.Sprintf("a page from 2 to %d", c.highWater-1), id)
			}
			if !c.known.add(id) {
				return wrong("free page", "each page once, and not the list's own", id)
			}
			next += pageIDBytes
		}
	}
	return nil
}
