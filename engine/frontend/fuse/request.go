package fuse

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// inHeader is struct fuse_in_header, which opens every request.
type inHeader struct {
	length uint32 // bytes of the whole message
	op     opcode
	unique uint64 // repeated in the reply as it is, resend bit included
	node   uint64
}

// decodeHeader reads the header of one message as it came from one read and
// checks that it is as long as it says. The rest of msg is the body.
func decodeHeader(msg []byte) (inHeader, error) {
	if len(msg) < inHeaderBytes {
		return inHeader{}, fmt.Errorf("%w: %d bytes, wanted a header of %d", ErrProtocol, len(msg), inHeaderBytes)
	}
	h := inHeader{
		length: binary.LittleEndian.Uint32(msg),
		op:     opcode(binary.LittleEndian.Uint32(msg[4:])),
		unique: binary.LittleEndian.Uint64(msg[8:]),
		node:   binary.LittleEndian.Uint64(msg[16:]),
	}
	if int64(h.length) != int64(len(msg)) {
		return inHeader{}, fmt.Errorf("%w: header says %d bytes, got %d", ErrProtocol, h.length, len(msg))
	}
	return h, nil
}

// short reports a body that is smaller than its opcode requires.
func short(op opcode, got, want int) error {
	return fmt.Errorf("%w: opcode %d: body of %d bytes, wanted %d", ErrProtocol, op, got, want)
}

// initIn is struct fuse_init_in.
type initIn struct {
	major, minor uint32
	maxReadahead uint32 // bytes
	flags        uint64 // flags and flags2 together
}

func decodeInit(body []byte) (initIn, error) {
	if len(body) < initInBytes {
		return initIn{}, short(opInit, len(body), initInBytes)
	}
	in := initIn{
		major:        binary.LittleEndian.Uint32(body),
		minor:        binary.LittleEndian.Uint32(body[4:]),
		maxReadahead: binary.LittleEndian.Uint32(body[8:]),
		flags:        uint64(binary.LittleEndian.Uint32(body[12:])),
	}
	// The upper half is only there, and only valid, with INIT_EXT.
	if in.flags&flagInitExt != 0 && len(body) >= initInExtBytes {
		in.flags |= uint64(binary.LittleEndian.Uint32(body[16:])) << 32
	}
	return in, nil
}

// readIn is the part of struct fuse_read_in that READ and READDIR need.
type readIn struct {
	offset int64 // bytes
	size   int   // bytes
}

func decodeRead(body []byte) (readIn, error) {
	if len(body) < readInBytes {
		return readIn{}, short(opRead, len(body), readInBytes)
	}
	return readIn{
		offset: int64(binary.LittleEndian.Uint64(body[8:])),
		size:   int(binary.LittleEndian.Uint32(body[16:])),
	}, nil
}

// writeIn is the part of struct fuse_write_in that WRITE needs, with what is
// to be written.
type writeIn struct {
	offset    int64  // bytes
	openFlags uint32 // O_* of the writer, O_DSYNC added for a synchronous write
	data      []byte // aliases the message
}

func decodeWrite(body []byte) (writeIn, error) {
	if len(body) < writeInBytes {
		return writeIn{}, short(opWrite, len(body), writeInBytes)
	}
	size := binary.LittleEndian.Uint32(body[16:])
	if data := len(body) - writeInBytes; int64(size) != int64(data) {
		return writeIn{}, fmt.Errorf("%w: write of %d bytes carries %d", ErrProtocol, size, data)
	}
	return writeIn{
		offset:    int64(binary.LittleEndian.Uint64(body[8:])),
		openFlags: binary.LittleEndian.Uint32(body[32:]),
		data:      body[writeInBytes:],
	}, nil
}

// fallocateIn is struct fuse_fallocate_in.
type fallocateIn struct {
	offset, length int64 // bytes
	mode           uint32
}

func decodeFallocate(body []byte) (fallocateIn, error) {
	if len(body) < fallocateInBytes {
		return fallocateIn{}, short(opFallocate, len(body), fallocateInBytes)
	}
	return fallocateIn{
		offset: int64(binary.LittleEndian.Uint64(body[8:])),
		length: int64(binary.LittleEndian.Uint64(body[16:])),
		mode:   binary.LittleEndian.Uint32(body[24:]),
	}, nil
}

// setattrIn is the part of struct fuse_setattr_in that tells whether, and to
// what, the length of the file is to be set.
type setattrIn struct {
	valid uint32
	size  uint64 // bytes, meaningful with setattrSize
}

func decodeSetattr(body []byte) (setattrIn, error) {
	if len(body) < setattrInBytes {
		return setattrIn{}, short(opSetattr, len(body), setattrInBytes)
	}
	return setattrIn{
		valid: binary.LittleEndian.Uint32(body),
		size:  binary.LittleEndian.Uint64(body[16:]),
	}, nil
}

// decodeName reads the single name that LOOKUP carries. It aliases the
// message.
func decodeName(body []byte) ([]byte, error) {
	end := bytes.IndexByte(body, 0)
	if end < 0 {
		return nil, fmt.Errorf("%w: name of %d bytes without its terminator", ErrProtocol, len(body))
	}
	return body[:end], nil
}
