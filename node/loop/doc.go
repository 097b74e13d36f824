// Package loop attaches files to Linux loop devices by ioctl.
//
// It exists because the file behind a device of ours is served by a process
// that may be gone: no call here reads or writes the device, partitions are
// never scanned for, and waiting honours a context. Which device belongs to a
// file is read from sysfs (loopN/loop/backing_file), so nothing has to be
// remembered across a restart and attaching is idempotent.
//
// The package keeps no state and starts no goroutine. Calls that make the
// kernel ask the file's server (Attach opens the file, Resize asks for its
// length, and the last close of a device in Detach writes back its cache) block
// in the kernel for as long as the server does not answer; a context cannot end
// them. Callers that cannot trust the server run them where they can be left
// behind.
package loop
