// Package fuse serves an engine.Device to the kernel through /dev/fuse.
//
// It speaks the FUSE protocol (Linux include/uapi/linux/fuse.h, protocol 7.31
// and later) over a raw descriptor, for one file system that holds one
// directory with one regular file called FileName (or any name that begins with
// it and a hyphen). A loop device with direct I/O over that file makes it a block
// device; attaching it is the work of node/holder, which also mounts the file
// system and keeps the descriptor.
//
// # Hand-over between processes
//
// Handshake negotiates the connection once, right after the mount, and Serve
// answers requests for as long as its process lives. When that process dies,
// requests that it had read and not answered stay in the kernel. The next
// process calls Serve with the same descriptor, the same InitState and
// Session.Takeover set; Serve then asks the kernel to queue those requests
// again (FUSE_NOTIFY_RESEND, Linux 6.9) before it reads anything. That a new
// process can answer for an old one rests on these invariants:
//
//   - node ids and file handles are constants, so nothing about open files is
//     lost with a process;
//   - replies carry a request's unique exactly as it was read, with the bit
//     that marks a resent request;
//   - a request may be applied twice (by the dead process and by its
//     successor), so the dead one must be wholly gone before the successor
//     reads. The holder's lease sees to that; Serve cannot check it. A resent
//     write can land behind another one to the same bytes only if that one was
//     sent before the former was answered, and such have no order anyway;
//   - a request is copied by the kernel into memory that is mapped, populated
//     and locked. A process killed while the kernel copies into a page that is
//     not there yet would turn that request into EIO instead of leaving it to
//     be resent.
//
// # Over io_uring
//
// Where it is wanted and the kernel has it (TransportRing), requests come through
// io_uring instead: ringReader describes how. Interrupts and inodes that are forgotten
// still come through /dev/fuse, which is read as ever. Such a session cannot be handed
// over: of the requests that a process has taken the kernel gives none to another.
//
// # Goroutines
//
// Serve owns every goroutine of a session and returns after all of them have
// ended. Options.Readers goroutines read requests; each holds one receive
// buffer, which is the permission to read. A reader takes the requests that
// wait in the kernel together, up to maxBurst into as many buffers, and sends
// its replies with the next taking: one system call (io_uring_enter, with no
// operation left in the ring behind it) where io_uring is to be had, and one
// for each request and reply where it is not. Changes, and reads that the device
// can answer from memory, are served where they were read, small writes of a
// burst as one batch. Before a call that may wait for a disk, a reader that is
// the last one still reading passes its receive buffer on to another goroutine
// and continues in a smaller buffer, so that a slow request never keeps the next
// one from being read. Buffers bound the goroutines: when all are in use,
// requests wait in the kernel.
//
// The package neither mounts nor unmounts, needs no privilege, and never
// closes the descriptor that it was given.
package fuse
