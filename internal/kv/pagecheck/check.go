package pagecheck

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// headerBytes is the size of a page header.
const headerBytes = 16

// pageID is a page's number: its offset in the file by the size of a page.
type pageID uint64

// kind is a page's flags, of which exactly one is set.
type kind uint16

const (
	branchKind   kind = 0x01
	leafKind     kind = 0x02
	metaKind     kind = 0x04
	freelistKind kind = 0x10
)

func (k kind) String() string {
	switch k {
	case branchKind:
		return "branch"
	case leafKind:
		return "leaf"
	case metaKind:
		return "meta"
	case freelistKind:
		return "free list"
	}
	return fmt.Sprintf("kind %#x", uint16(k))
}

// header begins a page, and a bucket's page that is stored in a value.
type header struct {
	id       pageID
	kind     kind
	count    int    // elements
	overflow uint32 // pages that follow and belong to it
}

func (h header) String() string { return fmt.Sprintf("%s page %d", h.kind, h.id) }

// parseHeader reads the first headerBytes of b.
func parseHeader(b []byte) header {
	e := binary.NativeEndian
	return header{id: pageID(e.Uint64(b)), kind: kind(e.Uint16(b[8:])), count: int(e.Uint16(b[10:])), overflow: e.Uint32(b[12:])}
}

// Check reads a database of sizeBytes bytes and returns nil if bbolt can be
// trusted with it. Otherwise an *Error, or that of a read that failed. The file
// must not change before bbolt has it: the caller holds its lock.
func Check(file io.ReaderAt, sizeBytes int64) error {
	m, err := currentMeta(file, sizeBytes)
	if err != nil {
		return err
	}
	c := &checker{file: file, pageBytes: m.pageBytes, highWater: m.highWater, known: make(pageSet, m.highWater/64+1)}
	c.known.add(0)
	c.known.add(1)
	at := ref{from: m.page, offset: m.offset}
	if m.freelist != noFreelist {
		if err := c.freelist(at.to(m.freelist)); err != nil {
			return err
		}
	}
	top := bucket{checker: c, top: true}
	return top.subtree(at.to(m.root), nil, 0)
}

// checker is one Check.
type checker struct {
	file      io.ReaderAt
	pageBytes int64
	highWater pageID // not above what the file has
	known     pageSet
	levels    [maxDepth]scratch
}

// scratch is the memory of one level of the walk.
type scratch struct{ node, key []byte }

// ref is a reference to a page, and where it is written.
type ref struct {
	page   pageID
	from   pageID
	offset int64 // in the file
}

func (r ref) to(page pageID) ref { return ref{page: page, from: r.from, offset: r.offset} }

func (r ref) wrong(wanted string) *Error {
	return &Error{Page: uint64(r.from), Offset: r.offset, What: "reference", Wanted: wanted, Found: fmt.Sprintf("page %d", r.page)}
}

// page reads the beginning of the page that a reference is to into buf, and
// notes that the page and its overflow pages are in use. The page must be of
// one of the kinds.
func (c *checker) page(at ref, buf []byte, kinds ...kind) (header, error) {
	if at.page < 2 || at.page >= c.highWater {
		return header{}, at.wrong(fmt.Sprintf("a page from 2 to %d", c.highWater-1))
	}
	offset := int64(at.page) * c.pageBytes
	if err := readAt(c.file, buf, offset); err != nil {
		return header{}, err
	}
	h := parseHeader(buf)
	wrong := func(wanted string, found any) error {
		return &Error{Page: uint64(at.page), Offset: offset, What: "page header", Wanted: wanted, Found: fmt.Sprint(found)}
	}
	if h.id != at.page || !slices.Contains(kinds, h.kind) {
		return header{}, wrong(fmt.Sprintf("page %d of kind %v", at.page, kinds), h)
	}
	if room := c.highWater - at.page - 1; pageID(h.overflow) > room {
		return header{}, wrong(fmt.Sprintf("at most %d overflow pages", room), h.overflow)
	}
	for id := at.page; id <= at.page+pageID(h.overflow); id++ {
		if !c.known.add(id) {
			return header{}, at.to(id).wrong("a page that is not free and that nothing else refers to")
		}
	}
	return h, nil
}

// pageSet has a bit for each page below the high-water mark.
type pageSet []uint64

// add reports whether the page was not in the set.
func (s pageSet) add(id pageID) bool {
	bit := uint64(1) << (id % 64)
	if s[id/64]&bit != 0 {
		return false
	}
	s[id/64] |= bit
	return true
}

// readAt fills b.
func readAt(file io.ReaderAt, b []byte, offset int64) error {
	if n, err := file.ReadAt(b, offset); n < len(b) {
		return fmt.Errorf("read %d bytes at offset %d: %w", len(b), offset, err)
	}
	return nil
}
