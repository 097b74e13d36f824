package pagecheck

import (
	"encoding/binary"
	"fmt"
)

const (
	// elementBytes is the size of an element, of a leaf as of a branch.
	elementBytes = 16
	// MaxKeyBytes is the longest key that passes, and the longest name of a
	// bucket, which is a key. bbolt refuses longer keys.
	MaxKeyBytes = 32768
	// bucketFlag tells a bucket's element from a value's; no other flag exists.
	bucketFlag = 0x01
)

// node is a leaf or a branch: a page with its overflow pages, or what a small
// bucket's value has behind the bucket's header.
type node struct {
	header
	page        pageID // that it is, or is in
	offset      int64  // in the file
	lengthBytes int64
	inline      bool   // in a bucket's value
	head        []byte // its first bytes, with all elements
}

// element is one entry of a node. Key and value are at start, behind each
// other.
type element struct {
	start, keyBytes, valueBytes int64  // start from the node's beginning
	flags                       uint32 // of a leaf's
	child                       pageID // of a branch's
}

func (n *node) element(i int) element {
	at := headerBytes + elementBytes*i
	b, e := n.head[at:], binary.NativeEndian
	if n.kind == branchKind {
		return element{start: int64(at) + int64(e.Uint32(b)), keyBytes: int64(e.Uint32(b[4:])), child: pageID(e.Uint64(b[8:]))}
	}
	return element{
		flags: e.Uint32(b), start: int64(at) + int64(e.Uint32(b[4:])),
		keyBytes: int64(e.Uint32(b[8:])), valueBytes: int64(e.Uint32(b[12:])),
	}
}

// elementOffset is where an element is in the file.
func (n *node) elementOffset(i int) int64 { return n.offset + headerBytes + elementBytes*int64(i) }

func (n *node) wrong(offset int64, what, wanted string, found any) error {
	return &Error{Page: uint64(n.page), Offset: offset, What: what, Wanted: wanted, Found: fmt.Sprint(found)}
}

// pageNode reads a leaf or branch that has pages of its own. The node is valid
// until the next one of its level.
func (c *checker) pageNode(at ref, level int) (*node, error) {
	head := resize(&c.levels[level].node, c.pageBytes)
	h, err := c.page(at, head, branchKind, leafKind)
	if err != nil {
		return nil, err
	}
	n := &node{
		header: h, page: at.page, offset: int64(at.page) * c.pageBytes,
		lengthBytes: (1 + int64(h.overflow)) * c.pageBytes, head: head,
	}
	return n, c.elements(n, level)
}

// inlineNode reads the leaf in a bucket's value. It has no pages of its own
// and says that it is page 0: bbolt would free any other.
func (c *checker) inlineNode(page pageID, offset, lengthBytes int64, level int) (*node, error) {
	n := &node{page: page, offset: offset, lengthBytes: lengthBytes, inline: true}
	if lengthBytes < headerBytes {
		return nil, n.wrong(offset, "bucket in a value", "a page header", fmt.Sprintf("%d bytes", lengthBytes))
	}
	n.head = resize(&c.levels[level].node, min(lengthBytes, c.pageBytes))
	if err := readAt(c.file, n.head, offset); err != nil {
		return nil, err
	}
	n.header = parseHeader(n.head)
	if n.id != 0 || n.kind != leafKind || n.overflow != 0 {
		return nil, n.wrong(offset, "bucket in a value", "leaf page 0 without overflow", fmt.Sprintf("%v with %d", n.header, n.overflow))
	}
	return n, c.elements(n, level)
}

// elements completes a node's head and checks where its elements say that
// their keys and values are: behind the last element and each other, without a
// gap, up to the end. An end is anywhere in the last page of a node that has
// pages of its own.
func (c *checker) elements(n *node, level int) error {
	next := headerBytes + elementBytes*int64(n.count)
	if next > n.lengthBytes {
		return n.wrong(n.offset, "page header", fmt.Sprintf("elements in %d bytes", n.lengthBytes), fmt.Sprintf("%d of them", n.count))
	}
	if have := int64(len(n.head)); have < next {
		n.head = resize(&c.levels[level].node, next)
		if err := readAt(c.file, n.head[have:], n.offset+have); err != nil {
			return err
		}
	}
	for i := range n.count {
		e := n.element(i)
		switch {
		case e.start != next:
			return n.wrong(n.elementOffset(i), "element", fmt.Sprintf("key at %d in the page", next), e.start)
		case e.keyBytes == 0 || e.keyBytes > MaxKeyBytes:
			return n.wrong(n.elementOffset(i), "element", fmt.Sprintf("key of 1 to %d bytes", MaxKeyBytes), e.keyBytes)
		case e.flags != 0 && (e.flags != bucketFlag || n.inline):
			return n.wrong(n.elementOffset(i), "element", "flags that fit its place", fmt.Sprintf("%#x", e.flags))
		}
		next += e.keyBytes + e.valueBytes
		if next > n.lengthBytes {
			return n.wrong(n.elementOffset(i), "element", fmt.Sprintf("key and value in %d bytes", n.lengthBytes), fmt.Sprintf("end at %d", next))
		}
	}
	if n.inline && next != n.lengthBytes {
		return n.wrong(n.offset, "bucket in a value", fmt.Sprintf("%d bytes", next), n.lengthBytes)
	}
	if !n.inline && next <= n.lengthBytes-c.pageBytes {
		return n.wrong(n.offset, "page header", fmt.Sprintf("pages for %d bytes", next), fmt.Sprintf("%d overflow pages", n.overflow))
	}
	return nil
}

// bytes returns a part of a node whose elements were checked: of its head, or
// read into buf.
func (c *checker) bytes(n *node, start, length int64, buf *[]byte) ([]byte, error) {
	if start+length <= int64(len(n.head)) {
		return n.head[start : start+length], nil
	}
	b := resize(buf, length)
	return b, readAt(c.file, b, n.offset+start)
}

// resize gives a buffer a length and keeps what it holds.
func resize(buf *[]byte, length int64) []byte {
	if int64(cap(*buf)) < length {
		*buf = append(make([]byte, 0, length), *buf...)
	}
	*buf = (*buf)[:length]
	return *buf
}
