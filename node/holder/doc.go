// Package holder is the process that keeps the devices of a node while the
// engines behind them come and go.
//
// A Holder mounts a small FUSE file system for each volume, negotiates it, attaches
// a loop device to its one file and keeps the descriptors. A process that has an
// engine leases the /dev/fuse descriptor of its volume from the holder, by a Client
// or a Keeper, and serves it with engine/frontend/fuse. When that process dies, I/O
// on the block device waits; the next one that attaches is handed the same
// descriptor and continues.
//
// A holder is a process of its own (Run, which Start starts; it takes its volumes
// down at its end) or part of one that is replaced now and then (Config.Keep: it
// leaves them to the next holder of its directory).
//
// # Invariants
//
//   - A descriptor is leased to one connection at a time. The lease ends with
//     Release or when the connection closes. The kernel closes the socket of a
//     dying process after the last of its threads has let go of its files, so
//     that a lease which ended this way means that nobody reads the descriptor
//     any more. That is the fence that lets requests be sent again.
//   - A client closes its socket only after its Serve has returned. A connection
//     that broke otherwise broke with its holder, and then the lease goes on: it
//     is whoever has the descriptor.
//   - The holder does nothing on a device that needs an engine unless one holds
//     the lease, and does it where a caller's deadline can leave it behind: the
//     volume then stays locked until the engine answers or Detach aborts the
//     connection.
//   - A volume that nobody serves is detached by aborting its connection, which
//     fails all I/O under way, so detaching never hangs.
//   - A connection that some process keeps alive is never aborted because another
//     one wants the volume. Whether it is alive is the kernel's word, not a record's.
//
// # What happens when a process dies
//
// Engine: I/O waits for a successor; over io_uring (fuse.TransportRing) nobody can
// succeed, and the holder aborts the connection before the lease ends, so that I/O
// fails and the next attach mounts anew. Holder: volumes that are being served work
// on, because the engine has the descriptor as well. An engine with a Keeper gives
// it to the next holder (restore). Both: the connection is gone with the last copy
// of its descriptor, and the devices answer every request with an I/O error; nothing
// hangs. The next holder clears away what it finds of such a volume when it starts
// or when the volume is attached. A dead device that is still in use is taken out of
// the way and goes with its last user; the volume gets a new one.
//
// # Who gets a volume after a holder was replaced
//
// The fence proper is that only one engine of a volume opens its store at a time. The
// holder's rules keep two processes from one descriptor whatever they believe:
//
//  1. The new holder finds a volume mounted and asks its file system for its
//     statistics. The kernel refuses that at once if the connection is dead; then
//     no engine can come back, and whoever attaches gets a new mount. Otherwise the
//     volume is "away": attach and detach are ErrLeased until its engine comes back
//     or dies. An engine that is alive and silent keeps the volume for as long as it
//     lives, because its requests may still be carried out.
//  2. restore makes a client the lessee if it presents the number of the newest
//     lease, and a descriptor of the very connection that is mounted. Leases of a
//     mount are numbered, and the number is recorded before a descriptor is handed
//     out. So of two processes that have a copy, the one to which it was handed last
//     gets it, whichever dials first: the other's lease ended when that one began,
//     and it must not serve (ErrSuperseded).
//  3. The same lease presented twice is one engine's, so the first one gets it
//     (ErrLeased for the second).
//
// A holder that is ending begins no lease, and takes none back: it is about to close its
// descriptor, and the engine's goes to the next one (Keeper.Close).
//
// That a descriptor is of a connection is read from its fdinfo (fuse_connection, a
// line that kernels have since 2025) and compared with the device number of the
// mount. Older kernels are asked in another way; see probe.
//
// # In a directory
//
//	.lock               flock of the holder that runs
//	.id                 random identity of the directory
//	.volumes/V.json     record of volume V: connection, INIT state, lease, identity
//	V/                  mount point of V
//
// Loop devices are attached to V/device-ID-CONNECTION-V, a name of the one file that
// occurs once on a machine: the path in front of it is not known to another mount
// namespace, and none is once the namespace in which it was mounted has ended with
// its container. The name is how a device is found, and how devices that an
// earlier life of a node left to the kernel are told from other nodes' on the same
// machine. For the next container to see the mounts, the directory must be in a
// mount with shared propagation.
//
// # Protocol
//
// SOCK_SEQPACKET on a Unix socket with mode 0600, or 0660 for Config.Group. Each
// packet is one JSON object of at most 128 KiB, from the client a request and from
// the holder a reply with the same id; replies come in any order. Both carry the
// protocol version, 2, in "v", and a holder refuses any other than its own, so that
// a node that was upgraded knows that it must drain before it restarts the holder.
// Descriptors travel in SCM_RIGHTS.
//
//	attach       volume, blockBytes, readOnly, transport, ring, known -> descriptor, init, takeover, lease, wanted, identity
//	restore      volume, blockBytes, readOnly, init, lease, descriptor -> device
//	attach-loop  volume -> device
//	resize       volume -> sizeBytes
//	release      volume
//	detach       volume, force
//	withdraw     volume, look
//	list         -> volumes, with the identity of each one's mount
//	shutdown
//
// An attach wishes for a transport, or leaves it to the holder's configuration, and
// says with ring that its process can use io_uring; the reply's wanted is what was
// wished for, and its init what the kernel granted. Holders and engines that do not
// know these fields get along over /dev/fuse.
//
// With known an attach tells the identity of the device that the volume had last,
// anywhere, which that attach was answered; empty: none may be taken over. Another one
// that waits here is taken away as by Revoke, before the lease begins, and the volume
// gets a new mount. Without known, and for a mount without an identity, both of earlier
// versions, what waits is handed out. An engine that means to send known later makes
// the identity durable before it serves the descriptor.
//
// A withdraw is a detach of a device that may be wanted at any moment: its volume
// is attached, and no pod uses it now. It is refused (ErrBusy) if anything on this
// node has the device mounted, claimed, published (Config.Unused) or open, and then
// nothing has changed; with look nothing changes in any case. Holders that do not
// know it answer ErrInvalid.
//
// Version 1 had neither restore nor lease, and loop devices over V/device.
//
// # Goroutines
//
// Run owns one goroutine for each connection and one for each request, at most
// 32 for each connection, and joins them. A call into the kernel that waits for
// an engine keeps its goroutine beyond the caller's deadline; Run does not
// join those, since it aborts every connection before it returns, or (Config.Keep)
// is about to end its process. A Client owns one goroutine, joined by Close, and a
// Keeper one more.
//
// # Limits of the kernel's part
//
// The loop driver serves the flushes, discards and I/O of one cgroup in turn on
// one worker, and FUSE holds the lock of a file over its fsync: a slow flush
// delays the other I/O of its device (not of other devices), however the engine
// is made.
//
// Programs that ask every loop device for its file (losetup -a, not lsblk) wait
// for as long as one has no engine.
//
// A process in whose mount namespace is the last mount of a file system on one of
// the holder's devices must not be the holder: when it is killed, the kernel
// unmounts, and writes back, before it closes the descriptor. In a container whose
// kubelet directory is shared with the host that mount is never the last.
//
// The package neither formats nor mounts what is on a device, and knows nothing
// of Kubernetes.
package holder
