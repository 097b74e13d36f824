package site

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// usedBy tells for an error message where a device is mounted that cannot be
// had exclusively and, where that is not in this process's mount namespace, in
// whose: a container that was started while a device was mounted may keep a
// copy of the mount after the original is gone.
func usedBy(device string) string {
	const unknown = "mounted or open"
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return unknown
	}
	number := fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	if point := mountPoint("/proc/self", number); point != "" {
		return "mounted at " + point
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return unknown
	}
	for _, process := range processes {
		if point := mountPoint(process, number); point != "" {
			name, _ := os.ReadFile(process + "/comm") // it may have ended meanwhile
			return fmt.Sprintf("mounted at %s in the mount namespace of process %s (%s)", point, filepath.Base(process), strings.TrimSpace(string(name)))
		}
	}
	return unknown
}

// mountPoint finds in a process's mount namespace where a device number was
// mounted last, which is where CSI publishes it; see proc_pid_mountinfo(5) for
// the fields. "" where it is not.
func mountPoint(process, number string) string {
	table, err := os.ReadFile(process + "/mountinfo")
	if err != nil {
		return ""
	}
	point := ""
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[2] == number {
			point = fields[4]
		}
	}
	return point
}
