package fuse

import "bytes"

// The numbers of Linux include/uapi/linux/fuse.h that this package uses.
// Messages are in the byte order of the host; every platform that this is
// built for is little-endian.

// Protocol versions. 7.31 (Linux 5.4) is the oldest whose INIT carries
// everything asked for here; the minor version answered is the newest one
// whose structures this package knows (Linux 6.9, FUSE_HAS_RESEND).
const (
	protocolMajor    = 7
	protocolMinorMin = 31
	protocolMinor    = 40
)

// Sizes of message parts in bytes.
const (
	inHeaderBytes    = 40
	outHeaderBytes   = 16
	attrBytes        = 88
	entryOutBytes    = 128
	attrOutBytes     = 104
	openOutBytes     = 16
	writeOutBytes    = 8
	statfsOutBytes   = 80
	initInBytes      = 16 // without the fields that INIT_EXT adds
	initInExtBytes   = 64
	initOutBytes     = 64
	readInBytes      = 40
	writeInBytes     = 40
	fallocateInBytes = 32
	setattrInBytes   = 88
	direntBytes      = 24 // without the name
)

// opcode tells what a request asks for (enum fuse_opcode).
type opcode uint32

const (
	opLookup      opcode = 1
	opForget      opcode = 2
	opGetattr     opcode = 3
	opSetattr     opcode = 4
	opOpen        opcode = 14
	opRead        opcode = 15
	opWrite       opcode = 16
	opStatfs      opcode = 17
	opRelease     opcode = 18
	opFsync       opcode = 20
	opFlush       opcode = 25
	opInit        opcode = 26
	opOpendir     opcode = 27
	opReaddir     opcode = 28
	opReleasedir  opcode = 29
	opFsyncdir    opcode = 30
	opInterrupt   opcode = 36
	opDestroy     opcode = 38
	opNotifyReply opcode = 41
	opBatchForget opcode = 42
	opFallocate   opcode = 43
)

// INIT flags. Those above bit 31 travel in the field flags2.
const (
	flagAsyncRead uint64 = 1 << 0
	flagBigWrites uint64 = 1 << 5
	flagAsyncDIO  uint64 = 1 << 15
	flagMaxPages  uint64 = 1 << 22
	flagInitExt   uint64 = 1 << 30
	flagHasResend uint64 = 1 << 39
	flagOverRing  uint64 = 1 << 41 // FUSE_OVER_IO_URING, Linux 6.14
)

// Flags of an OPEN reply.
const (
	openDirectIO             uint32 = 1 << 0
	openNoFlush              uint32 = 1 << 5
	openParallelDirectWrites uint32 = 1 << 6
)

// setattrSize is FATTR_SIZE, the bit of a SETATTR that asks for a new length.
const setattrSize uint32 = 1 << 3

// Modes of FALLOCATE that a block device needs (linux/falloc.h).
const (
	fallocKeepSize  uint32 = 0x01
	fallocPunchHole uint32 = 0x02
	fallocZeroRange uint32 = 0x10
)

// Codes of notifications: FUSE_NOTIFY_INVAL_ENTRY and FUSE_NOTIFY_RESEND.
const (
	notifyInvalEntry int32 = 3
	notifyResend     int32 = 7
)

// expireOnly is FUSE_EXPIRE_ONLY, a flag of FUSE_NOTIFY_INVAL_ENTRY.
const expireOnly uint32 = 1

// Node ids and the file handle are constants, so that a process that takes a
// session over means the same file by them as the one before.
const (
	nodeRoot   uint64 = 1
	nodeFile   uint64 = 2
	fileHandle uint64 = 1
)

// FileName is the name of the only file in the root directory. Every name that
// begins with FileName and a hyphen is another name of it: whoever attaches a
// loop device opens the file by one that nobody else uses, since the name is
// all of the file that the kernel shows of the device to everyone.
const FileName = "device"

// isFileName reports whether the root directory has name.
func isFileName(name []byte) bool {
	rest, found := bytes.CutPrefix(name, []byte(FileName))
	return found && (len(rest) == 0 || rest[0] == '-')
}

// maxWriteBytes is the longest READ or WRITE that is negotiated: the kernel
// refuses more than 256 pages unless fs.fuse.max_pages_limit was raised.
const maxWriteBytes = 1 << 20
