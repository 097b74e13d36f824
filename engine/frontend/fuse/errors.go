package fuse

import "errors"

var (
	// ErrUnmounted: the file system was unmounted or its connection aborted.
	// The descriptor will carry no request again.
	ErrUnmounted = errors.New("file system is unmounted")
	// ErrProtocol: the kernel sent a message that is shorter than its kind
	// requires or whose lengths contradict each other.
	ErrProtocol = errors.New("malformed FUSE message")
	// ErrVersion: the kernel speaks a FUSE protocol that is too old or of
	// another major version, or a serialised InitState is of one.
	ErrVersion = errors.New("unsupported FUSE protocol version")
	// ErrNoResend: a session was to be taken over on a kernel without
	// FUSE_NOTIFY_RESEND (before Linux 6.9). Requests that the previous
	// process had read can never be answered; the connection has to be
	// aborted.
	ErrNoResend = errors.New("kernel cannot resend pending FUSE requests")
	// ErrNoTakeover: a session over io_uring was to be taken over. Requests that
	// its process had taken are lost to every other one; the connection has to be
	// aborted.
	ErrNoTakeover = errors.New("a session over io_uring cannot be taken over")
	// ErrNotOffered: the kernel does not offer a transport for new mounts.
	ErrNotOffered = errors.New("kernel does not offer FUSE over io_uring (needs Linux 6.14 and Y in /sys/module/fuse/parameters/enable_uring)")
)
