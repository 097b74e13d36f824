package nbd

import (
	"encoding/binary"
	"fmt"
)

// request is one request of the transmission phase, without its payload.
type request struct {
	flags   uint16
	command command
	cookie  uint64 // chosen by the client, returned in the reply
	offset  uint64 // bytes
	length  uint32 // bytes
}

// parseRequest decodes the requestBytes of b. It checks the magic only: the
// rest is the business of refuse.
func parseRequest(b []byte) (request, error) {
	if magic := binary.BigEndian.Uint32(b); magic != magicRequest {
		return request{}, fmt.Errorf("%w: request magic %#x, want %#x", ErrProtocol, magic, uint32(magicRequest))
	}
	return request{
		flags:   binary.BigEndian.Uint16(b[4:]),
		command: command(binary.BigEndian.Uint16(b[6:])),
		cookie:  binary.BigEndian.Uint64(b[8:]),
		offset:  binary.BigEndian.Uint64(b[16:]),
		length:  binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// fua reports whether the request is to be durable before its reply.
func (r request) fua() bool { return r.flags&cmdFlagFUA != 0 }

// negotiated is what the handshake settled for the transmission phase.
type negotiated struct {
	structured bool // structured replies
	allocation bool // the allocation context was selected for this export
}

// allowedFlags is the set of flags that a command may carry, and whether the
// command exists at all. FUA must be accepted everywhere, even where it means
// nothing (section "Command flags").
func allowedFlags(cmd command, n negotiated) (flags uint16, known bool) {
	switch cmd {
	case cmdRead:
		if n.structured {
			return cmdFlagFUA | cmdFlagDF, true
		}
		return cmdFlagFUA, true
	case cmdWrite, cmdFlush, cmdTrim, cmdCache, cmdDisconnect:
		return cmdFlagFUA, true
	case cmdWriteZeroes:
		return cmdFlagFUA | cmdFlagNoHole | cmdFlagFastZero, true
	case cmdBlockStatus:
		return cmdFlagFUA | cmdFlagReqOne, n.allocation
	default:
		return 0, false
	}
}

// refuse returns the status with which a request has to fail before it
// reaches the device, or statusOK. It is called before anything is allocated.
func refuse(r request, n negotiated, sizeBytes int64, readOnly bool) (status, string) {
	allowed, known := allowedFlags(r.command, n)
	if !known {
		return statusInvalid, "command not known or not negotiated"
	}
	if r.flags&^allowed != 0 {
		return statusInvalid, "command flag not allowed here"
	}
	changes := r.command == cmdWrite || r.command == cmdTrim || r.command == cmdWriteZeroes
	if changes && readOnly {
		return statusNotPermitted, "export is read-only"
	}
	if r.command == cmdFlush {
		if r.offset != 0 || r.length != 0 {
			return statusInvalid, "flush with offset or length"
		}
		return statusOK, ""
	}
	if size := uint64(sizeBytes); r.offset > size || uint64(r.length) > size-r.offset {
		if r.command == cmdWrite || r.command == cmdWriteZeroes {
			return statusNoSpace, "request beyond the end of the export"
		}
		return statusInvalid, "request beyond the end of the export"
	}
	if r.offset%minBlockBytes != 0 || r.length%minBlockBytes != 0 {
		return statusInvalid, "request not aligned to the minimum block size"
	}
	if (r.command == cmdRead || r.command == cmdWrite) && r.length > maxRequestBytes {
		return statusInvalid, "request longer than the maximum block size"
	}
	if r.command == cmdBlockStatus && r.length == 0 {
		return statusInvalid, "block status of nothing"
	}
	if r.flags&cmdFlagFastZero != 0 && r.flags&cmdFlagNoHole != 0 {
		// Without a hole the zeroes are written out, which is no faster
		// than a write.
		return statusNotSupported, "no fast way to write zeroes without a hole"
	}
	return statusOK, ""
}
