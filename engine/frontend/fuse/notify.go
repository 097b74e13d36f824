package fuse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Notifications are messages to the kernel that answer no request: their header
// has the unique 0, and the code in place of an error.

func notification(code int32, body []byte) []byte {
	msg := make([]byte, outHeaderBytes, outHeaderBytes+len(body))
	binary.LittleEndian.PutUint32(msg[0:], uint32(outHeaderBytes+len(body)))
	binary.LittleEndian.PutUint32(msg[4:], uint32(code))
	return append(msg, body...)
}

// resend asks the kernel to queue again what the process before had read.
func resend(fd int) error {
	_, err := unix.Write(fd, notification(notifyResend, nil))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL):
		return ErrNoResend
	case gone(err):
		return ErrUnmounted
	default:
		return fmt.Errorf("ask for pending requests: %w", os.NewSyscallError("write", err))
	}
}

// ExpireName tells the kernel to ask again for name in the root directory of
// the connection fd when it is next used (FUSE_NOTIFY_INVAL_ENTRY with
// FUSE_EXPIRE_ONLY, Linux 6.2). It may be called while the connection is served,
// by any process, and changes nothing that anybody would notice. Its use is in
// its error: ENOENT if the kernel does not have the name in its cache of this
// connection, EPERM if fd never was of one.
//
// It waits in the kernel for requests about names in the root directory that are
// under way, and so possibly for whoever serves.
func ExpireName(fd int, name string) error {
	body := make([]byte, 16, 16+len(name)+1)
	binary.LittleEndian.PutUint64(body[0:], nodeRoot)
	binary.LittleEndian.PutUint32(body[8:], uint32(len(name)))
	binary.LittleEndian.PutUint32(body[12:], expireOnly)
	body = append(append(body, name...), 0)
	for {
		_, err := unix.Write(fd, notification(notifyInvalEntry, body))
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		return os.NewSyscallError("write", err)
	}
}
