package fuse

import (
	"encoding/binary"
	"os"
	"syscall"
)

// Modes of the two nodes (sys/stat.h).
const (
	modeDir          uint32 = syscall.S_IFDIR | 0o755
	modeFile         uint32 = syscall.S_IFREG | 0o600
	modeFileReadOnly uint32 = syscall.S_IFREG | 0o400
)

// blockBytes is the block size that STATFS and GETATTR report. The loop driver
// takes it for the granularity of discards.
const blockBytes = 4096

// putOutHeader writes struct fuse_out_header for a reply of length bytes in
// total. errno is 0 or a positive error number, which travels negated.
func putOutHeader(p []byte, length int, errno syscall.Errno, unique uint64) {
	_ = p[outHeaderBytes-1]
	binary.LittleEndian.PutUint32(p, uint32(length))
	binary.LittleEndian.PutUint32(p[4:], uint32(-int32(errno)))
	binary.LittleEndian.PutUint64(p[8:], unique)
}

// attr is what struct fuse_attr says of one of the two nodes. Times are zero:
// nothing reads them, and a changing one would only cost messages.
type attr struct {
	node uint64
	mode uint32
	size int64 // bytes
}

func putAttr(p []byte, a attr) {
	p = p[:attrBytes]
	clear(p)
	binary.LittleEndian.PutUint64(p, a.node)
	binary.LittleEndian.PutUint64(p[8:], uint64(a.size))
	binary.LittleEndian.PutUint64(p[16:], uint64(a.size+511)/512)
	binary.LittleEndian.PutUint32(p[60:], a.mode)
	binary.LittleEndian.PutUint32(p[64:], 1) // links
	binary.LittleEndian.PutUint32(p[80:], blockBytes)
}

// putEntryOut writes struct fuse_entry_out. Both validities stay zero, so that
// every path walk asks again and a grown device is seen at once.
func putEntryOut(p []byte, a attr) int {
	p = p[:entryOutBytes]
	clear(p[:entryOutBytes-attrBytes])
	binary.LittleEndian.PutUint64(p, a.node)
	putAttr(p[entryOutBytes-attrBytes:], a)
	return entryOutBytes
}

// putAttrOut writes struct fuse_attr_out with validity zero, as putEntryOut.
func putAttrOut(p []byte, a attr) int {
	p = p[:attrOutBytes]
	clear(p[:attrOutBytes-attrBytes])
	putAttr(p[attrOutBytes-attrBytes:], a)
	return attrOutBytes
}

// putOpenOut writes struct fuse_open_out.
func putOpenOut(p []byte, handle uint64, flags uint32) int {
	p = p[:openOutBytes]
	clear(p)
	binary.LittleEndian.PutUint64(p, handle)
	binary.LittleEndian.PutUint32(p[8:], flags)
	return openOutBytes
}

// putWriteOut writes struct fuse_write_out.
func putWriteOut(p []byte, written int) int {
	p = p[:writeOutBytes]
	clear(p)
	binary.LittleEndian.PutUint32(p, uint32(written))
	return writeOutBytes
}

// putStatfsOut writes struct fuse_statfs_out for a full file system of size
// bytes: there is room for nothing but the device.
func putStatfsOut(p []byte, size int64) int {
	p = p[:statfsOutBytes]
	clear(p)
	binary.LittleEndian.PutUint64(p, uint64(size)/blockBytes)
	binary.LittleEndian.PutUint64(p[24:], 1) // files
	binary.LittleEndian.PutUint32(p[40:], blockBytes)
	binary.LittleEndian.PutUint32(p[44:], uint32(len(FileName)))
	binary.LittleEndian.PutUint32(p[48:], blockBytes)
	return statfsOutBytes
}

// dirent is one entry of the root directory.
type dirent struct {
	node uint64
	kind uint32 // DT_*
	name string
}

var rootEntries = [...]dirent{
	{nodeRoot, syscall.DT_DIR, "."},
	{nodeRoot, syscall.DT_DIR, ".."},
	{nodeFile, syscall.DT_REG, FileName},
}

// putDirents writes the entries of the root directory from the one with index
// offset on, as many as fit into p, and returns the bytes used. An offset
// beyond the last entry gives 0, the end of the directory.
func putDirents(p []byte, offset int64) int {
	used := 0
	for i := max(offset, 0); i < int64(len(rootEntries)); i++ {
		e := rootEntries[i]
		padded := (direntBytes + len(e.name) + 7) &^ 7
		if used+padded > len(p) {
			break
		}
		q := p[used : used+padded]
		clear(q)
		binary.LittleEndian.PutUint64(q, e.node)
		binary.LittleEndian.PutUint64(q[8:], uint64(i+1)) // where to go on
		binary.LittleEndian.PutUint32(q[16:], uint32(len(e.name)))
		binary.LittleEndian.PutUint32(q[20:], e.kind)
		copy(q[direntBytes:], e.name)
		used += padded
	}
	return used
}

// putInitOut writes struct fuse_init_out.
func putInitOut(p []byte, s InitState) int {
	p = p[:initOutBytes]
	clear(p)
	binary.LittleEndian.PutUint32(p, s.Major)
	binary.LittleEndian.PutUint32(p[4:], s.Minor)
	binary.LittleEndian.PutUint32(p[8:], s.MaxReadaheadBytes)
	binary.LittleEndian.PutUint32(p[12:], uint32(s.Flags))
	binary.LittleEndian.PutUint16(p[16:], s.MaxBackground)
	binary.LittleEndian.PutUint16(p[18:], s.MaxBackground) // congestion threshold
	binary.LittleEndian.PutUint32(p[20:], s.MaxWriteBytes)
	binary.LittleEndian.PutUint32(p[24:], 1) // time granularity, nanoseconds
	// Also how much memory the kernel wants for each request over io_uring.
	binary.LittleEndian.PutUint16(p[28:], uint16(max(int(s.MaxWriteBytes)/os.Getpagesize(), 1)))
	binary.LittleEndian.PutUint32(p[32:], uint32(s.Flags>>32))
	return initOutBytes
}
