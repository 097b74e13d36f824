package vfs

import (
	"io"
	"unsafe"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// FS is the file system below a store. All methods may be called
// concurrently. Names are slash-separated paths.
//
// Durability is that of POSIX and no better: a name that was created, removed
// or renamed is durable after SyncDir of its directory, a file's content
// after Sync of the file. What was not synced may survive a power loss in
// part, in any combination of blocks.
type FS interface {
	// Create makes a new empty file open for reading and writing; ErrExist
	// if the name is taken.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// OpenReadOnly opens an existing file for reading.
	OpenReadOnly(name string) (File, error)
	// Remove deletes a file or an empty directory.
	Remove(name string) error
	// RemoveAll deletes a tree; no error if it is not there.
	RemoveAll(name string) error
	// Rename moves oldname over newname atomically.
	Rename(oldname, newname string) error
	// Link gives a file a second name; ErrExist if it is taken. A file system
	// may not be able to, and none is between two.
	Link(oldname, newname string) error
	// MkdirAll makes a directory and its missing parents, mode 0700.
	MkdirAll(name string) error
	// ReadDir lists the base names in a directory in ascending order.
	ReadDir(name string) ([]string, error)
	// Stat returns the size of a file in bytes.
	Stat(name string) (sizeBytes int64, err error)
	// SyncDir makes the names in a directory durable.
	SyncDir(name string) error
	// Lock takes the exclusive lock of a file, making the file if needed, and
	// holds it until Close or until this process is gone; ErrLocked at once
	// if another holds it.
	Lock(name string) (io.Closer, error)
	// OpenDB opens, or makes, the transactional key-value database in a file;
	// kv.ErrLocked if another has it open, kv.ErrCorrupt if it is damaged.
	OpenDB(name string) (kv.DB, error)
	// Space reports the bytes in all and the bytes free to this process on
	// the file system that holds name.
	Space(name string) (totalBytes, freeBytes int64, err error)
}

// File is an open file. ReadAt and WriteAt may be called concurrently.
type File interface {
	// ReadAt and WriteAt are those of io.ReaderAt and io.WriterAt.
	io.ReaderAt
	io.WriterAt
	// ReadVecAt fills the buffers, one behind the other, with what is in the
	// file from off on, as one system call where the platform has it. Its results
	// are those of ReadAt for all of them together.
	ReadVecAt(bufs [][]byte, off int64) (int, error)
	// WriteVecAt writes the buffers one behind the other from off on, as one
	// system call where the platform has it. A short write is an error.
	WriteVecAt(bufs [][]byte, off int64) (int, error)
	// StreamVecAt is WriteVecAt for what is hardly read soon: the disk is given it
	// at once, without being waited for, and then the pages that it brought into
	// the cache leave it. Where the platform cannot do this, it is WriteVecAt.
	StreamVecAt(bufs [][]byte, off int64) (int, error)
	// WriteDirectAt is WriteAt past the page cache: no page of the range is in it
	// afterwards. It is no more durable than WriteAt; a Sync is still needed.
	// The address of p (see AlignedBytes), its length and off are multiples of
	// DirectAlignBytes, and the range is inside the file's size. An error that
	// matches ErrNoDirect means that the file system cannot do this, or not with
	// that alignment; a part may have been written, and WriteAt can write it all.
	//
	// Reads of other ranges may go on meanwhile; one of the same range sees old
	// bytes or new ones, as with WriteAt.
	WriteDirectAt(p []byte, off int64) (int, error)
	// TryReadAt reads only if all of p can be had without waiting for a
	// disk; done is false when it cannot (nothing in p is then meaningful).
	TryReadAt(p []byte, off int64) (done bool, err error)
	// Sync returns when the file's content and size are durable (fdatasync).
	// After an error the state of what was unsynced is unknown: never retry.
	Sync() error
	// StartWriteback begins writing a range to disk without waiting and
	// without making anything durable. Best effort.
	StartWriteback(off, length int64)
	// StartRead begins reading a range into the cache without waiting, as far
	// as it is not there. Best effort.
	StartRead(off, length int64)
	// Truncate sets the file's size in bytes.
	Truncate(sizeBytes int64) error
	// Allocate reserves space for a range and extends the file to cover it;
	// afterwards writes inside it do not fail for lack of space, where the
	// file system can promise that. The range reads as before or as zeroes.
	Allocate(off, length int64) error
	// PunchHole frees a range, which then reads as zeroes. The size stays.
	PunchHole(off, length int64) error
	// DropCache forgets cached clean pages, so that the next read comes from
	// the disk. Best effort.
	DropCache()
	// NextData returns the first run of possibly non-zero bytes at or after
	// off; length 0 means there is none up to the end.
	NextData(off int64) (start, length int64, err error)
	// Size returns the file's size in bytes.
	Size() (int64, error)
	Close() error
}

// DirectAlignBytes is what WriteDirectAt wants addresses, lengths and offsets to
// be multiples of: the largest that disks and file systems ask for in practice
// (4096), not the smallest that this one would take.
const DirectAlignBytes = 4096

// AlignedBytes returns n zero bytes whose address is a multiple of
// DirectAlignBytes.
func AlignedBytes(n int) []byte {
	b := make([]byte, n+DirectAlignBytes)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) % DirectAlignBytes // an address of the heap stays what it is
	return b[skip:][:n:n]
}

// isAligned reports whether a direct write can be made of p.
func isAligned(p []byte, off int64) bool {
	return (uintptr(unsafe.Pointer(unsafe.SliceData(p)))|uintptr(len(p))|uintptr(off))%DirectAlignBytes == 0
}
