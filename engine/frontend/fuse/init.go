package fuse

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// maxBackground is how many asynchronous requests the kernel keeps under way.
// A loop device sends all its reads and writes asynchronously, so this is the
// queue depth of the device.
const maxBackground = 512

// InitState is what one INIT exchange settled. It is valid for as long as the
// mount exists, whichever process serves it, and travels as JSON from the
// process that mounted to those that serve.
type InitState struct {
	Major uint32 `json:"major"` // protocol version agreed on
	Minor uint32 `json:"minor"`
	// Flags are the FUSE_* capabilities in force, the low half as in
	// fuse_init_out.flags and the high half as in flags2.
	Flags             uint64 `json:"flags"`
	MaxWriteBytes     uint32 `json:"maxWriteBytes"` // longest READ or WRITE
	MaxReadaheadBytes uint32 `json:"maxReadaheadBytes"`
	MaxBackground     uint16 `json:"maxBackground"` // requests
}

// Transport is how requests come from the kernel.
func (s InitState) Transport() Transport {
	if s.Flags&flagOverRing != 0 {
		return TransportRing
	}
	return TransportDevice
}

// CanResend reports whether the kernel can queue again the requests of a
// process that died (Linux 6.9 and later; over io_uring none can). Without it a
// session must not be taken over.
func (s InitState) CanResend() bool {
	return s.Flags&flagHasResend != 0 && s.Transport() == TransportDevice
}

// Validate reports ErrVersion for a state that this package cannot serve: of
// another protocol version, or with longer requests than its buffers hold.
func (s InitState) Validate() error {
	if s.Major != protocolMajor || s.Minor < protocolMinorMin || s.Minor > protocolMinor {
		return fmt.Errorf("%w: %d.%d", ErrVersion, s.Major, s.Minor)
	}
	if s.MaxWriteBytes == 0 || s.MaxWriteBytes > maxWriteBytes {
		return fmt.Errorf("%w: requests of %d bytes", ErrVersion, s.MaxWriteBytes)
	}
	return nil
}

// negotiate answers what the kernel offers. Of its capabilities only those are
// taken that a block device gains from: long requests, asynchronous direct I/O
// and resending. The write-back cache stays off: a second cache below the page
// cache of the loop device would acknowledge writes that no engine has seen.
//
// Once io_uring is agreed on, the kernel keeps every request back until it has
// entries of all queues. So it is asked for only if it is wanted.
func negotiate(in initIn, transport Transport) (InitState, error) {
	if in.major != protocolMajor || in.minor < protocolMinorMin {
		return InitState{}, fmt.Errorf("%w: kernel speaks %d.%d", ErrVersion, in.major, in.minor)
	}
	wanted := flagAsyncRead | flagBigWrites | flagAsyncDIO | flagMaxPages | flagInitExt | flagHasResend
	if transport == TransportRing {
		wanted |= flagOverRing
	}
	flags := in.flags & wanted
	maxWrite := uint32(maxWriteBytes)
	switch {
	case flags&flagMaxPages == 0:
		maxWrite = 32 * 4096 // FUSE_DEFAULT_MAX_PAGES_PER_REQ
	case flags&flagOverRing != 0:
		maxWrite = ringPayloadBytes
	}
	return InitState{
		Major:             protocolMajor,
		Minor:             min(in.minor, protocolMinor),
		Flags:             flags,
		MaxWriteBytes:     maxWrite,
		MaxReadaheadBytes: in.maxReadahead,
		MaxBackground:     maxBackground,
	}, nil
}

// Handshake answers the INIT request of a file system that was just mounted
// with the descriptor conn, and returns what was agreed. It blocks until the
// kernel has sent INIT, which it does at once after mount(2). Call it once for
// a mount, before any Serve; nothing else may read conn meanwhile.
//
// TransportRing is a wish, which the kernel may not grant: InitState.Transport
// tells. It must be one that the process which is to serve can do (ProbeRing).
//
// It returns ErrVersion for a kernel that is too old (the kernel has then been
// refused and the mount is unusable), ErrUnmounted when the mount is gone.
func Handshake(conn *os.File, transport Transport) (InitState, error) {
	fd := int(conn.Fd())
	// The kernel refuses a read with a buffer under 8 KiB (FUSE_MIN_READ_BUFFER).
	msg := make([]byte, 8<<10)
	n, err := readHandshake(fd, msg)
	if err != nil {
		return InitState{}, fmt.Errorf("read INIT request: %w", err)
	}
	h, err := decodeHeader(msg[:n])
	if err != nil {
		return InitState{}, err
	}
	if h.op != opInit {
		return InitState{}, fmt.Errorf("%w: first opcode is %d, wanted INIT", ErrProtocol, h.op)
	}
	in, err := decodeInit(msg[inHeaderBytes:n])
	if err != nil {
		return InitState{}, err
	}
	state, refusal := negotiate(in, transport)
	reply := make([]byte, outHeaderBytes+initOutBytes)
	if refusal != nil {
		reply = reply[:outHeaderBytes]
		putOutHeader(reply, len(reply), unix.EPROTO, h.unique)
	} else {
		putInitOut(reply[outHeaderBytes:], state)
		putOutHeader(reply, len(reply), 0, h.unique)
	}
	if _, err := unix.Write(fd, reply); err != nil {
		return InitState{}, fmt.Errorf("write INIT reply: %w", err)
	}
	return state, refusal
}

// readHandshake reads one message, however often a signal interrupts it.
func readHandshake(fd int, msg []byte) (int, error) {
	for {
		n, err := unix.Read(fd, msg)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ECONNABORTED):
			return 0, ErrUnmounted
		default:
			return n, err
		}
	}
}
