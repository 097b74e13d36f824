// Package node is the CSI node service: it formats, checks, mounts, grows and
// measures what the controller has attached to this node as a block device.
//
// # Invariants
//
// The kernel's mount table is the only record of what is staged and
// published, so nothing has to agree with it after a crash or a reboot; each
// call looks there first and does what is missing. The one thing kept beside
// it is a marker file for each volume that is being formatted: it makes an
// interrupted mkfs repeatable, and it is gone, durably, before the file system
// is mounted for the first time on this node. Other nodes do not know of it, and
// the volume may have been formatted and used there since.
//
// A device is formatted only if it is blank: no signature known to blkid, and
// zeroes at both ends; or if it has a marker, can be read, and has nothing that
// was ever mounted.
// Anything else that is not the wanted file system is refused.
//
// Calls for one volume take turns; calls for different volumes do not wait for
// each other. A call that has begun to change a file system goes on when its
// caller gives up. The package does not attach devices: its Devices does.
//
// # Devices without an engine
//
// While nobody serves a device its I/O waits, and with it the last unmount of
// its file system, which writes back. Unstaging then does not pretend success:
// it is Unavailable, and done once an engine is back. A device whose engine and
// holder are both gone fails its I/O, which no unmount waits for; what is mounted
// of it is taken away when the volume is staged, unstaged or published next.
//
// # Goroutines
//
// One for each unmount, which ends with it and may outlive the call that wanted
// it. Nothing joins them: they wait for processes of their own.
package node
