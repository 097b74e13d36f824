package memory

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestCacheBytes: no more than half of the machine's memory, and not nothing.
func TestCacheBytes(t *testing.T) {
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil {
		t.Fatal(err)
	}
	all := int64(machine.Totalram) * int64(machine.Unit)
	if got := CacheBytes(); got <= 0 || got > all/2 {
		t.Errorf("%d bytes of a machine of %d", got, all)
	}
}
