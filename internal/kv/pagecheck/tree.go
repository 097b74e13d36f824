package pagecheck

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

const (
	// maxDepth is how many nodes are on the way to the last one, those of the
	// buckets around it included. A branch has two children or more, so that
	// even the largest file has far less, unless buckets are nested for nothing.
	maxDepth = 64
	// bucketBytes is the header of a bucket in its value: the page of its root,
	// or 0 if it follows in the value, and a counter of the bucket's user.
	bucketBytes = 16
)

// bucket is the walk through the tree of one bucket, in the order of its keys.
type bucket struct {
	*checker
	top  bool   // it holds all others, and nothing else
	last []byte // the key before
}

// subtree walks a page and what is below it. first is the key that the parent
// has for it, nil for the root. bbolt finds the parent's entry by that key when
// it writes the page anew: if they differ, it leaves an entry for a freed page.
func (b *bucket) subtree(at ref, first []byte, level int) error {
	if level == maxDepth {
		return at.wrong(fmt.Sprintf("at most %d levels", maxDepth))
	}
	n, err := b.pageNode(at, level)
	if err != nil {
		return err
	}
	if n.count == 0 && (first != nil || n.kind == branchKind) {
		return n.wrong(n.offset, "page header", "at least one element", "none")
	}
	if n.kind == leafKind {
		return b.leaf(n, first, level)
	}
	for i := range n.count {
		key, err := b.key(n, i, first, level)
		if err != nil {
			return err
		}
		child := ref{page: n.element(i).child, from: n.page, offset: n.elementOffset(i)}
		if err := b.subtree(child, key, level+1); err != nil {
			return err
		}
	}
	return nil
}

// leaf checks that the keys ascend, and walks the buckets among the values.
func (b *bucket) leaf(n *node, first []byte, level int) error {
	for i := range n.count {
		key, err := b.key(n, i, first, level)
		if err != nil {
			return err
		}
		if bytes.Compare(key, b.last) <= 0 { // no key is empty
			return n.wrong(n.elementOffset(i), "element", fmt.Sprintf("key above %.64q", b.last), fmt.Sprintf("%.64q", key))
		}
		b.last = append(b.last[:0], key...)
		e := n.element(i)
		if e.flags == bucketFlag {
			err = b.nested(n, i, level)
		} else if b.top {
			err = n.wrong(n.elementOffset(i), "element", "a bucket", "a value")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// key returns an element's key, which is valid until the next one of its
// level. That of a node's first element must be the one its parent has.
func (b *bucket) key(n *node, i int, first []byte, level int) ([]byte, error) {
	e := n.element(i)
	key, err := b.bytes(n, e.start, e.keyBytes, &b.levels[level].key)
	if err == nil && i == 0 && first != nil && !bytes.Equal(key, first) {
		err = n.wrong(n.elementOffset(i), "element", fmt.Sprintf("key %.64q, as in its parent", first), fmt.Sprintf("%.64q", key))
	}
	return key, err
}

// nested walks the bucket in the value of a leaf's element. bbolt copies a
// value that is not aligned, so nothing is asked of where it is.
func (b *bucket) nested(n *node, i, level int) error {
	e := n.element(i)
	wrong := func(wanted string) error {
		return n.wrong(n.elementOffset(i), "element", wanted, fmt.Sprintf("%d bytes", e.valueBytes))
	}
	if e.valueBytes < bucketBytes {
		return wrong("a bucket's header")
	}
	value := e.start + e.keyBytes
	head, err := b.bytes(n, value, bucketBytes, &b.levels[level].key)
	if err != nil {
		return err
	}
	inner := bucket{checker: b.checker}
	at := ref{page: pageID(binary.NativeEndian.Uint64(head)), from: n.page, offset: n.offset + value}
	switch {
	case at.page != 0 && e.valueBytes != bucketBytes:
		return wrong("a bucket's header and nothing else")
	case at.page != 0:
		return inner.subtree(at, nil, level+1)
	case level+1 == maxDepth:
		return at.wrong(fmt.Sprintf("at most %d levels", maxDepth))
	}
	inside, err := b.inlineNode(n.page, at.offset+bucketBytes, e.valueBytes-bucketBytes, level+1)
	if err != nil {
		return err
	}
	return inner.leaf(inside, nil, level+1)
}
