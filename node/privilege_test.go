package node

import (
	"testing"

	"golang.org/x/sys/unix"
)

// hasResource reports whether this process may grow a mounted ext4.
func hasResource(t *testing.T) bool {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// setSuperReadOnly makes a whole file system read-only and leaves its mounts
// as they are.
func setSuperReadOnly(t *testing.T, path string) {
	t.Helper()
	fd, err := unix.Fspick(unix.AT_FDCWD, path, unix.FSPICK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd) //nolint:errcheck // only a handle
	if err := unix.FsconfigSetFlag(fd, "ro"); err != nil {
		t.Fatal(err)
	}
	if err := unix.FsconfigReconfigure(fd); err != nil {
		t.Fatal(err)
	}
}
