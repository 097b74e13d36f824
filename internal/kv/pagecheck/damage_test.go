package pagecheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

// Offsets in a page header, and of fields in a meta page.
const (
	atKind, atCount, atOverflow                                   = 8, 10, 12
	atVersion, atPageBytes, atRoot, atFreelist, atHighWater, atID = 20, 24, 32, 48, 56, 0
)

type damage struct {
	what string // Error.What
	edit func(t *testing.T, im image) image
}

// in makes a damage of an edit in place.
func in(what string, edit func(t *testing.T, im image)) damage {
	return damage{what, func(t *testing.T, im image) image { edit(t, im); return im }}
}

// inMeta changes the newer meta page and mends its checksum.
func inMeta(what string, edit func(im image, m meta)) damage {
	return in(what, func(t *testing.T, im image) {
		edit(im, im.meta(t))
		im.mendSums()
	})
}

// inNode changes the root node of a bucket.
func inNode(name, what string, edit func(im image, n *node)) damage {
	return in(what, func(t *testing.T, im image) { edit(im, im.root(t, name)) })
}

// inTop changes the top level, where the bucket small is the last element.
func inTop(what string, edit func(im image, n *node, last int)) damage {
	return in(what, func(t *testing.T, im image) {
		n, i, _ := im.top(t, "small")
		if i != n.count-1 {
			t.Fatal("small is not the last one")
		}
		edit(im, n, i)
	})
}

// inSmall changes the bucket small, which is in its value at the offset.
func inSmall(what string, edit func(im image, value int64)) damage {
	return in(what, func(t *testing.T, im image) {
		_, _, value := im.top(t, "small")
		edit(im, value)
	})
}

// inFreelist changes the free list, whose page is at the offset.
func inFreelist(what string, edit func(im image, m meta, page int64)) damage {
	return in(what, func(t *testing.T, im image) {
		m := im.meta(t)
		edit(im, m, int64(m.freelist)*samplePage)
	})
}

var metaDamage = map[string]damage{
	"empty file":      {"file", func(_ *testing.T, im image) image { return nil }},
	"part of a meta":  {"file", func(_ *testing.T, im image) image { return im[:79] }},
	"one page":        {"file", func(_ *testing.T, im image) image { return im[:samplePage] }},
	"cut":             {"high-water mark", func(_ *testing.T, im image) image { return im[:len(im)-1] }},
	"magic":           inMeta("meta page", func(im image, _ meta) { im[headerBytes]++ }),
	"checksum":        in("meta page", func(_ *testing.T, im image) { im[headerBytes+metaSumOffset]++ }),
	"other meta":      in("meta page", func(t *testing.T, im image) { im[(1-im.meta(t).page)*samplePage+atRoot]++ }),
	"current meta":    in("meta page", func(t *testing.T, im image) { im[im.meta(t).page*samplePage+atRoot]++ }),
	"meta's id":       in("page header", func(_ *testing.T, im image) { im[samplePage] = 0 }),
	"meta's kind":     in("page header", func(_ *testing.T, im image) { im[samplePage+atKind] = byte(leafKind) }),
	"page size 1000":  inMeta("page size", func(im image, _ meta) { im.put32(atPageBytes, 1000) }),
	"page size 5000":  inMeta("page size", func(im image, _ meta) { im.put32(atPageBytes, 5000) }),
	"page size 1 MiB": inMeta("page size", func(im image, _ meta) { im.put32(atPageBytes, 1<<20) }),
	"page sizes":      inMeta("page size", func(im image, _ meta) { im.put32(samplePage+atPageBytes, 8192) }),
	"high-water mark": inMeta("high-water mark", func(im image, m meta) { im.put64(m.offset+atHighWater, uint64(m.highWater)+1) }),
	"huge high-water mark": inMeta("high-water mark", func(im image, m meta) {
		im.put64(m.offset+atHighWater, 1<<63+5)
	}),
	"root 0":             inMeta("reference", func(im image, m meta) { im.put64(m.offset+atRoot, 0) }),
	"root 1":             inMeta("reference", func(im image, m meta) { im.put64(m.offset+atRoot, 1) }),
	"root outside":       inMeta("reference", func(im image, m meta) { im.put64(m.offset+atRoot, uint64(m.highWater)) }),
	"root far outside":   inMeta("reference", func(im image, m meta) { im.put64(m.offset+atRoot, 1<<52) }),
	"root is free list":  inMeta("page header", func(im image, m meta) { im.put64(m.offset+atRoot, uint64(m.freelist)) }),
	"free list outside":  inMeta("reference", func(im image, m meta) { im.put64(m.offset+atFreelist, uint64(m.highWater)) }),
	"free list is root":  inMeta("page header", func(im image, m meta) { im.put64(m.offset+atFreelist, uint64(m.root)) }),
	"free list is meta":  inMeta("reference", func(im image, m meta) { im.put64(m.offset+atFreelist, 1) }),
	"mark below the use": inMeta("free page", func(im image, m meta) { im.put64(m.offset+atHighWater, uint64(m.freelist)+1) }),
}

var pageDamage = map[string]damage{
	"id":         inNode("branch", "page header", func(im image, n *node) { im[n.offset+atID]++ }),
	"no kind":    inNode("branch", "page header", func(im image, n *node) { im.put16(n.offset+atKind, 0) }),
	"two kinds":  inNode("branch", "page header", func(im image, n *node) { im.put16(n.offset+atKind, 3) }),
	"meta":       inNode("branch", "page header", func(im image, n *node) { im.put16(n.offset+atKind, uint16(metaKind)) }),
	"other kind": inNode("branch", "element", func(im image, n *node) { im.put16(n.offset+atKind, uint16(leafKind)) }),
	"overflow outside": inNode("large", "page header", func(im image, n *node) {
		im.put32(n.offset+atOverflow, uint32(len(im)/samplePage)-uint32(n.page))
	}),
	"huge overflow": inNode("large", "page header", func(im image, n *node) { im.put32(n.offset+atOverflow, 1<<32-1) }),
	"no overflow":   inNode("large", "element", func(im image, n *node) { im.put32(n.offset+atOverflow, 0) }),
	"overflow over others": inNode("branch", "reference", func(im image, n *node) {
		im.put32(n.offset+atOverflow, uint32(len(im)/samplePage)-1-uint32(n.page))
	}),
	"more elements than room": inNode("branch", "page header", func(im image, n *node) { im.put16(n.offset+atCount, 0xFFFF) }),
	"one element more":        inNode("branch", "element", func(im image, n *node) { im.put16(n.offset+atCount, uint16(n.count+1)) }),
	"one element less":        inNode("branch", "element", func(im image, n *node) { im.put16(n.offset+atCount, uint16(n.count-1)) }),
	"no element in a branch":  inNode("branch", "page header", func(im image, n *node) { im.put16(n.offset+atCount, 0) }),
	"no element in a leaf below": inNode("branch", "page header", func(im image, n *node) {
		im.put16(int64(n.element(1).child)*samplePage+atCount, 0)
	}),
	"position":     inNode("large", "element", func(im image, n *node) { im[n.elementOffset(1)+4]++ }),
	"position far": inNode("large", "element", func(im image, n *node) { im.put32(n.elementOffset(1)+4, 1<<32-1) }),
	"no key": inNode("large", "element", func(im image, n *node) {
		im.put32(n.elementOffset(0)+8, 0)
		im.put32(n.elementOffset(0)+12, uint32(n.element(0).valueBytes+6)) // the next one still follows it
	}),
	"long key":       inNode("large", "element", func(im image, n *node) { im.put32(n.elementOffset(0)+8, MaxKeyBytes+1) }),
	"value too long": inNode("large", "element", func(im image, n *node) { im.put32(n.elementOffset(1)+12, 1<<32-1) }),
	"value over page": inNode("large", "element", func(im image, n *node) {
		e := n.element(1)
		im.put32(n.elementOffset(1)+12, uint32(n.lengthBytes-e.start-e.keyBytes+1))
	}),
	"value too short": inNode("large", "page header", func(im image, n *node) { im.put32(n.elementOffset(1)+12, 5) }),
	"unknown flag":    inNode("large", "element", func(im image, n *node) { im.put32(n.elementOffset(1), 2) }),
	"value as bucket": inNode("large", "element", func(im image, n *node) { im.put32(n.elementOffset(0), bucketFlag) }),
	"child 0":         inNode("branch", "reference", func(im image, n *node) { im.put64(n.elementOffset(0)+8, 0) }),
	"child is a meta": inNode("branch", "reference", func(im image, n *node) { im.put64(n.elementOffset(0)+8, 1) }),
	"child outside":   inNode("branch", "reference", func(im image, n *node) { im.put64(n.elementOffset(0)+8, uint64(len(im)/samplePage)) }),
	"child far":       inNode("branch", "reference", func(im image, n *node) { im.put64(n.elementOffset(0)+8, 1<<63) }),
	"child itself":    inNode("branch", "reference", func(im image, n *node) { im.put64(n.elementOffset(0)+8, uint64(n.page)) }),
	"child twice":     inNode("branch", "reference", func(im image, n *node) { im.put64(n.elementOffset(1)+8, uint64(n.element(0).child)) }),
	"children swapped": inNode("branch", "element", func(im image, n *node) {
		im.put64(n.elementOffset(1)+8, uint64(n.element(2).child))
		im.put64(n.elementOffset(2)+8, uint64(n.element(1).child))
	}),
	"child is free": in("reference", func(t *testing.T, im image) {
		// A page that was a leaf, and still looks like one.
		free, n := pageID(im[int64(im.meta(t).freelist)*samplePage+headerBytes]), im.root(t, "branch")
		copy(im[free*samplePage:(free+1)*samplePage], im[n.element(0).child*samplePage:])
		im.put64(int64(free*samplePage), uint64(free))
		im.put64(n.elementOffset(0)+8, uint64(free))
	}),
	"key in the branch": inNode("branch", "element", func(im image, n *node) {
		im[n.offset+n.element(1).start+n.element(1).keyBytes-1]--
	}),
	"first key of a leaf": in("element", func(t *testing.T, im image) {
		leaf := im.node(t, im.root(t, "branch").element(1).child)
		im[leaf.offset+leaf.element(0).start+5]++
	}),
	"keys out of order": inNode("large", "element", func(im image, n *node) { im[n.offset+n.element(0).start+4] = '9' }),
	"key twice":         inNode("large", "element", func(im image, n *node) { im[n.offset+n.element(0).start+5] = '1' }),
}

var bucketDamage = map[string]damage{
	"bucket as value": inTop("element", func(im image, n *node, last int) { im.put32(n.elementOffset(last), 0) }),
	"value of 15 bytes": inTop("element", func(im image, n *node, last int) {
		im.put32(n.elementOffset(last)+12, 15)
	}),
	"no room for a page": inTop("bucket in a value", func(im image, n *node, last int) { im.put32(n.elementOffset(last)+12, 31) }),
	"a byte more": inTop("bucket in a value", func(im image, n *node, last int) {
		im.put32(n.elementOffset(last)+12, im.get32(n.elementOffset(last)+12)+1)
	}),
	"a byte less": inTop("element", func(im image, n *node, last int) {
		im.put32(n.elementOffset(last)+12, im.get32(n.elementOffset(last)+12)-1)
	}),
	"root of a small one": inSmall("element", func(im image, value int64) { im.put64(value, 3) }),
	"no root": in("bucket in a value", func(t *testing.T, im image) {
		_, _, value := im.top(t, "branch")
		im.put64(value, 0)
	}),
	"two with one root": in("reference", func(t *testing.T, im image) {
		_, _, value := im.top(t, "branch")
		_, _, other := im.top(t, "large")
		copy(im[value:value+8], im[other:])
	}),
	"page of a small one":     inSmall("bucket in a value", func(im image, value int64) { im[value+bucketBytes]++ }),
	"branch in a value":       inSmall("bucket in a value", func(im image, value int64) { im[value+bucketBytes+atKind] = byte(branchKind) }),
	"overflow in a value":     inSmall("bucket in a value", func(im image, value int64) { im[value+bucketBytes+atOverflow] = 1 }),
	"many elements":           inSmall("page header", func(im image, value int64) { im.put16(value+bucketBytes+atCount, 0xFFFF) }),
	"one element more":        inSmall("element", func(im image, value int64) { im[value+bucketBytes+atCount]++ }),
	"one element less":        inSmall("element", func(im image, value int64) { im[value+bucketBytes+atCount]-- }),
	"position":                inSmall("element", func(im image, value int64) { im[value+bucketBytes+headerBytes+4]++ }),
	"value beyond the bucket": inSmall("element", func(im image, value int64) { im[value+bucketBytes+headerBytes+2*elementBytes+13] = 1 }),
	"bucket in a small one": inSmall("element", func(im image, value int64) {
		first := value + bucketBytes + headerBytes
		im[first] = bucketFlag
		im.put32(first+8, im.get32(first+8)+4) // a value of the size of a bucket's header
		im.put32(first+12, bucketBytes)
	}),
	"keys out of order": inSmall("element", func(im image, value int64) {
		im[value+bucketBytes+headerBytes+3*elementBytes] = 'z'
	}),
}

var freelistDamage = map[string]damage{
	"id":               inFreelist("page header", func(im image, _ meta, page int64) { im[page]++ }),
	"kind":             inFreelist("page header", func(im image, _ meta, page int64) { im.put16(page+atKind, uint16(leafKind)) }),
	"overflow outside": inFreelist("page header", func(im image, _ meta, page int64) { im.put32(page+atOverflow, 1<<20) }),
	"count":            inFreelist("free list", func(im image, _ meta, page int64) { im.put16(page+atCount, manyFree-1) }),
	"a page too many":  inFreelist("free list", func(im image, _ meta, page int64) { im.put16(page+atCount, (samplePage-headerBytes)/pageIDBytes+1) }),
	"one more":         inFreelist("free page", func(im image, _ meta, page int64) { im[page+atCount]++ }),
	"many": inFreelist("free list", func(im image, _ meta, page int64) {
		im.put16(page+atCount, manyFree)
		im.put64(page+headerBytes, 1<<63)
	}),
	"meta is free":        inFreelist("free page", func(im image, _ meta, page int64) { im.put64(page+headerBytes, 1) }),
	"free page outside":   inFreelist("free page", func(im image, m meta, page int64) { im.put64(page+headerBytes, uint64(m.highWater)) }),
	"free list is free":   inFreelist("free page", func(im image, m meta, page int64) { im.put64(page+headerBytes, uint64(m.freelist)) }),
	"page in use is free": inFreelist("reference", func(im image, m meta, page int64) { im.put64(page+headerBytes, uint64(m.root)) }),
	"free page twice": inFreelist("free page", func(im image, _ meta, page int64) {
		copy(im[page+headerBytes+8:page+headerBytes+16], im[page+headerBytes:])
	}),
	"free page far beyond": inFreelist("free page", func(im image, _ meta, page int64) { im.put64(page+headerBytes, 1<<63) }),
}

// TestDamage: each way in which a file can mislead bbolt is an error that names
// the structure and its place.
func TestDamage(t *testing.T) {
	whole := sample(t)
	groups := map[string]map[string]damage{"meta": metaDamage, "page": pageDamage, "bucket": bucketDamage, "freelist": freelistDamage}
	for group, cases := range groups {
		for name, c := range cases {
			t.Run(group+"/"+name, func(t *testing.T) {
				damaged := c.edit(t, bytes.Clone(whole))
				err := damaged.check()
				var e *Error
				if !errors.Is(err, ErrCorrupt) || !errors.As(err, &e) {
					t.Fatalf("got %v, want ErrCorrupt", err)
				}
				if e.What != c.what || e.Wanted == "" || e.Found == "" {
					t.Errorf("got %q, want one of a %s", e, c.what)
				}
				if page := uint64(e.Offset) / samplePage; len(damaged) > samplePage && page != e.Page {
					t.Errorf("offset %d is not in page %d", e.Offset, e.Page)
				}
			})
		}
	}
}

func TestOtherVersion(t *testing.T) {
	im := sample(t)
	im.put32(atVersion, 3)
	if err := im.check(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("with a wrong checksum: got %v, want ErrCorrupt", err)
	}
	im.mendSums()
	if err := im.check(); !errors.Is(err, ErrVersion) || errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want ErrVersion alone", err)
	}
}

// TestDepthIsBounded nests more buckets than are followed.
func TestDepthIsBounded(t *testing.T) {
	for depth, want := range map[int]error{maxDepth - 1: nil, maxDepth: ErrCorrupt, maxDepth + 10: ErrCorrupt} {
		path := filepath.Join(t.TempDir(), "nested.db")
		db := openPlain(t, path, bbolt.FreelistMapType)
		err := db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket([]byte("x"))
			for range depth - 1 {
				if err == nil {
					b, err = b.CreateBucket([]byte("x"))
				}
			}
			return err
		})
		if err = errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if err := readImage(t, path).check(); !errors.Is(err, want) {
			t.Errorf("%d buckets in each other: got %v, want %v", depth, err, want)
		}
	}
}

// TestReadErrorIsNotDamage: what could not be read may be whole.
func TestReadErrorIsNotDamage(t *testing.T) {
	im := sample(t)
	errBroken := errors.New("broken disk")
	for failing := range int64(len(im) / samplePage) {
		err := Check(brokenFile{im, failing * samplePage, errBroken}, int64(len(im)))
		if err != nil && (!errors.Is(err, errBroken) || errors.Is(err, ErrCorrupt)) {
			t.Errorf("page %d cannot be read: got %v", failing, err)
		}
		if err == nil && (failing < 2 || binary.NativeEndian.Uint16(im[failing*samplePage+atKind:]) == uint16(branchKind)) {
			t.Errorf("page %d was not read", failing)
		}
	}
}

type brokenFile struct {
	im  image
	at  int64
	err error
}

func (f brokenFile) ReadAt(b []byte, offset int64) (int, error) {
	if offset < f.at+samplePage && f.at < offset+int64(len(b)) {
		return 0, f.err
	}
	if n := copy(b, f.im[min(offset, int64(len(f.im))):]); n < len(b) {
		return n, io.EOF
	}
	return len(b), nil
}
