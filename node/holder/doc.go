// Package holder is the process that keeps the devices of a node while the
// engines behind them come and go.
//
// Run is that process: it mounts a small FUSE file system for each volume,
// negotiates it, attaches a loop device to its one file and keeps the
// descriptors. A process that has an engine dials the holder's socket with a
// Client, is handed the /dev/fuse descriptor of its volume, and serves it with
// engine/frontend/fuse. When that process dies, I/O on the block device waits;
// the next one that attaches is handed the same descriptor and continues.
//
// # Invariants
//
//   - A descriptor is leased to one connection at a time. The lease ends with
//     Release or when the connection closes. The kernel closes the socket of a
//     dying process after the last of its threads has let go of its files, so
//     that a lease which ended this way means that nobody reads the descriptor
//     any more. That is the fence that lets requests be sent again.
//   - The holder does nothing on a device that needs an engine unless one holds
//     the lease, and does it where a caller's deadline can leave it behind: the
//     volume then stays locked until the engine answers or Detach aborts the
//     connection.
//   - A volume that nobody serves is detached by aborting its connection, which
//     fails all I/O under way, so detaching never hangs.
//
// # What happens when a process dies
//
// Engine: I/O waits for a successor. Holder: volumes that are being served
// work on, because the engine has the descriptor as well, but once that engine
// goes too the connection is gone, and their devices answer every request with
// an I/O error; nothing hangs. The next holder clears away what it finds of a
// volume when the volume is attached or detached, unless its device is in use.
//
// # Protocol
//
// SOCK_SEQPACKET on a Unix socket with mode 0600. Each packet is one JSON
// object of at most 128 KiB, from the client a request and from the holder a
// reply with the same id; replies come in any order. Both carry the protocol
// version in "v", and a holder refuses any other than its own, so that a node
// that was upgraded knows that it must drain before it restarts the holder. The
// reply to "attach" carries the descriptor in SCM_RIGHTS.
//
// # Goroutines
//
// Run owns one goroutine for each connection and one for each request, at most
// 32 for each connection, and joins them. A call into the kernel that waits for
// an engine keeps its goroutine beyond the caller's deadline; Run does not
// join those, since it aborts every connection before it returns. A Client owns
// one goroutine, joined by Close.
//
// # Limits of the kernel's part
//
// The loop driver serves the flushes, discards and I/O of one cgroup in turn on
// one worker, and FUSE holds the lock of a file over its fsync: a slow flush
// delays the other I/O of its device (not of other devices), however the engine
// is made.
//
// The package neither formats nor mounts what is on a device, and knows nothing
// of Kubernetes.
package holder
