package fuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
)

// Session is one mounted connection as a process gets it to serve.
type Session struct {
	// Conn is the /dev/fuse descriptor of the mount. Serve makes it
	// non-blocking and never closes it.
	Conn *os.File
	// Init is what Handshake returned for this mount.
	Init InitState
	// Takeover is set when another Serve, in this process or in one that is
	// gone, has read from this connection before. Requests that it left
	// unanswered are then asked for again. Never set it while that other
	// Serve still runs: both would apply the same requests.
	Takeover bool
	// Fallback is why the session has another transport than was asked for; nil if
	// it has not. Serve warns of it.
	Fallback error
}

// Options bounds the resources of one session. The zero value means defaults.
//
// Over TransportRing only Readers matters, as the number of threads among which the
// queues of the CPUs are shared. How many requests can be in service follows from
// the number of CPUs: 16 of up to 256 KiB for each, fewer if that were more
// than 32 MiB of locked memory, but one at least.
type Options struct {
	// Readers is how many goroutines read requests while none of them waits
	// for the device; at least 1. The default is 1 on up to three CPUs and 2
	// above: a second reader takes writes in parallel, but where it has to
	// share a CPU with those who send them it costs more wakeups than it
	// saves time (measured on 2 CPUs, 4k writes at queue depth 32).
	Readers int
	// Receivers is how many requests of up to 1 MiB can be in service at
	// once, counting those that are being read; each takes 1 MiB of locked
	// memory. At least Readers, default DefaultReceivers.
	Receivers int
	// Waiters is how many further requests (reads of at most 64 KiB, flushes,
	// discards) can wait for the device at once; each takes 64 KiB of
	// locked memory. At least 1, default DefaultWaiters. When no buffer is
	// left, further requests wait in the kernel.
	Waiters int
	// Log is told when the memory cannot be locked, and of a Session.Fallback; nil:
	// nobody.
	Log *slog.Logger
}

// ringOptions are for what still comes over /dev/fuse when requests come over
// io_uring: interrupts and inodes that are forgotten.
var ringOptions = Options{Readers: 1, Receivers: 1, Waiters: 1}

// Defaults of Options: 10.2 MiB of locked memory for a volume, for which a
// process needs CAP_IPC_LOCK or a RLIMIT_MEMLOCK as high. It serves without, at
// the price that doc.go names.
const (
	DefaultReceivers = 8
	DefaultWaiters   = 32
)

// maxBuffers bounds Receivers and Waiters.
const maxBuffers = 1024

func (o Options) withDefaults() (Options, error) {
	if o.Readers == 0 {
		o.Readers = 1
		if runtime.NumCPU() > 3 {
			o.Readers = 2
		}
	}
	if o.Receivers == 0 {
		o.Receivers = max(DefaultReceivers, o.Readers)
	}
	if o.Waiters == 0 {
		o.Waiters = DefaultWaiters
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Readers < 1 || o.Receivers < o.Readers || o.Receivers > maxBuffers || o.Waiters < 1 || o.Waiters > maxBuffers {
		return o, fmt.Errorf("check options: readers %d, receivers %d, waiters %d out of range", o.Readers, o.Receivers, o.Waiters)
	}
	return o, nil
}

// TryReader is implemented by a Device that can tell a read which it can serve
// from memory from one that has to wait for a disk.
type TryReader interface {
	// TryReadAt is ReadAt if it can fill p without waiting, and otherwise
	// returns false, having changed nothing but, possibly, p. An error is
	// returned with done true and is that of ReadAt.
	TryReadAt(p []byte, off int64) (done bool, err error)
}

// Serve answers the requests of s with dev until ctx is cancelled (it returns
// nil) or the file system is unmounted or aborted (ErrUnmounted). On return
// every request that it had read has been answered, none of its goroutines is
// left, and the same connection can be served again with Takeover set.
//
// Over TransportRing the connection cannot be served again. Requests that come
// while ctx is being cancelled, or later, wait until the connection is aborted and
// fail then, and so do those that the process has taken when it dies.
//
// Serve adds no durability of its own: a flush from the kernel is acknowledged
// when dev.Flush has returned. A device that fails does not end the session;
// its errors go to whoever uses the block device. dev is called with a context
// that is not cancelled with ctx.
//
// Other errors: ErrNoResend, ErrNoTakeover, ErrVersion, ErrProtocol, and those of system
// calls that should not fail. One Serve at a time may run on a connection.
func Serve(ctx context.Context, s Session, dev engine.Device, opts Options) error {
	opts, err := opts.withDefaults()
	if err != nil {
		return err
	}
	if err := s.Init.Validate(); err != nil {
		return err
	}
	switch {
	case s.Takeover && s.Init.Transport() == TransportRing:
		return ErrNoTakeover
	case s.Takeover && !s.Init.CanResend():
		return ErrNoResend
	}
	fd := int(s.Conn.Fd())
	defer runtime.KeepAlive(s.Conn)
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("make connection non-blocking: %w", err)
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	defer func() { _ = unix.Close(stop) }()
	forDevice := opts
	if s.Init.Transport() == TransportRing {
		forDevice = ringOptions
	}
	buffers, err := newPool(fd, stop, forDevice.Receivers, forDevice.Waiters)
	if err != nil {
		return err
	}
	defer buffers.free()
	srv := newServer(context.WithoutCancel(ctx), fd, stop, dev, buffers, forDevice)
	if s.Init.Transport() == TransportRing {
		if srv.rings, err = newRingReaders(srv, opts.Readers, int(s.Init.MaxWriteBytes)); err != nil {
			return fmt.Errorf("set up io_uring: %w", err)
		}
		defer srv.freeRings()
	}
	srv.warn(s, opts.Log)
	// The resend goes out before the first read. After it, requests of the
	// process before would be mixed with ours, and ours resent too.
	if s.Takeover {
		if err := resend(fd); err != nil {
			return err
		}
	}
	return srv.run(ctx)
}

// warn tells log what a session has to do without.
func (s *server) warn(session Session, log *slog.Logger) {
	if session.Fallback != nil {
		log.Warn("serving over another transport than was asked for", "transport", session.Init.Transport(), "reason", session.Fallback)
	}
	bytes, unlocked := s.buffers.bytes, s.buffers.unlocked
	for _, r := range s.rings {
		more, failure := r.memory()
		bytes += more
		if unlocked == nil {
			unlocked = failure
		}
	}
	if unlocked != nil {
		log.Warn("request buffers are not locked in memory, so that a request can fail if this process is killed while it is short of memory: "+
			"grant CAP_IPC_LOCK or raise RLIMIT_MEMLOCK", "neededBytes", bytes, "error", unlocked)
	}
}

// gone tells the errors that /dev/fuse gives once its mount is no more: ENODEV
// after an unmount, ECONNABORTED after an abort, EPERM when writing to a
// descriptor that no mount belongs to.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EPERM)
}
