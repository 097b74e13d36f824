// Package integration tests whole sites as their users meet them: the lockstep
// binary in processes of its own, CSI over sockets, block devices and file
// systems of the kernel, PostgreSQL and fio on top, SIGKILL and cut
// connections.
//
// It needs root, /dev/fuse and loop devices, and what tests/setup.sh installs.
// LOCKSTEP_TEST_DIR puts the sites' files on another file system, and
// LOCKSTEP_TEST_ROUNDS multiplies how often sites are killed and how many
// points are opened (default 1).
//
// A killed process leaves what it wrote in the page cache, so these tests do
// not show what a disk loses with its power; the crash tests of package journal
// do, with a file system that forgets.
package integration
