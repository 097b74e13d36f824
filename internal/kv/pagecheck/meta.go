package pagecheck

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
)

const (
	magic   = 0xED0CDAED
	version = 2

	// What a meta page begins with: a page header, then the meta itself, which
	// ends with its checksum.
	metaBytes     = 64
	metaSumOffset = 56

	// Pages are as large as those of the machine that made the file.
	minPageBytes = 4 << 10
	maxPageBytes = 64 << 10

	// noFreelist stands for the free list's page where none was written: bbolt
	// then finds the free pages by walking the trees, as it is done here before.
	noFreelist pageID = 1<<64 - 1
)

// meta is what a meta page says.
type meta struct {
	page      pageID // that it is in
	offset    int64  // of the page in the file
	pageBytes int64
	root      pageID // of the top level
	freelist  pageID
	highWater pageID // behind the last page in use
	txid      uint64 // of the commit
}

// currentMeta reads both meta pages and returns the one that counts for bbolt,
// which is the newer. Both must be whole, see the package's comment.
func currentMeta(file io.ReaderAt, sizeBytes int64) (meta, error) {
	first, err := readMeta(file, sizeBytes, 0, 0)
	if err != nil {
		return meta{}, err
	}
	second, err := readMeta(file, sizeBytes, 1, first.pageBytes)
	if err != nil {
		return meta{}, err
	}
	if second.pageBytes != first.pageBytes {
		return meta{}, second.wrong("page size", fmt.Sprint(first.pageBytes), second.pageBytes)
	}
	current := first
	if second.txid > first.txid {
		current = second
	}
	if has := uint64(sizeBytes / current.pageBytes); uint64(current.highWater) > has {
		return meta{}, current.wrong("high-water mark", fmt.Sprintf("at most the file's %d pages", has), current.highWater)
	}
	return current, nil
}

func readMeta(file io.ReaderAt, sizeBytes int64, page pageID, offset int64) (meta, error) {
	m := meta{page: page, offset: offset}
	if sizeBytes < offset+headerBytes+metaBytes {
		return meta{}, m.wrong("file", "two meta pages", fmt.Sprintf("%d bytes", sizeBytes))
	}
	b := make([]byte, headerBytes+metaBytes)
	if err := readAt(file, b, offset); err != nil {
		return meta{}, err
	}
	h, b := parseHeader(b), b[headerBytes:]
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSumOffset]) // it never fails
	u32, u64 := binary.NativeEndian.Uint32, binary.NativeEndian.Uint64
	m.pageBytes = int64(u32(b[8:]))
	m.root = pageID(u64(b[16:])) // the bucket's sequence is at 24
	m.freelist, m.highWater, m.txid = pageID(u64(b[32:])), pageID(u64(b[40:])), u64(b[48:])
	switch {
	case u32(b) != magic:
		return meta{}, m.wrong("meta page", fmt.Sprintf("magic %08x", uint32(magic)), fmt.Sprintf("%08x", u32(b)))
	case u64(b[metaSumOffset:]) != sum.Sum64():
		return meta{}, m.wrong("meta page", fmt.Sprintf("checksum %016x", sum.Sum64()), fmt.Sprintf("%016x", u64(b[metaSumOffset:])))
	case u32(b[4:]) != version:
		err := m.wrong("meta page", fmt.Sprintf("version %d", version), u32(b[4:]))
		err.Kind = ErrVersion
		return meta{}, err
	case m.pageBytes < minPageBytes || m.pageBytes > maxPageBytes || m.pageBytes&(m.pageBytes-1) != 0:
		return meta{}, m.wrong("page size", fmt.Sprintf("a power of two from %d to %d", minPageBytes, maxPageBytes), m.pageBytes)
	case h.id != page || h.kind != metaKind:
		return meta{}, m.wrong("page header", fmt.Sprintf("meta page %d", page), h)
	}
	return m, nil
}

func (m *meta) wrong(what, wanted string, found any) *Error {
	return &Error{Page: uint64(m.page), Offset: m.offset, What: what, Wanted: wanted, Found: fmt.Sprint(found)}
}
