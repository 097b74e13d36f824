package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Kernel with FUSE_HAS_RESEND, which lets an engine be replaced under I/O.
const (
	resendMajor = 6
	resendMinor = 9
)

// host is what `lockstep check` looks at.
type host struct {
	uid      func() int
	mounts   func() bool                  // has the capability to mount
	release  func() (string, error)       // of the kernel, as uname -r
	openable func(path string) error      // for reading and writing
	tool     func(string) (string, error) // path of a program
	file     func(string) (string, error) // trimmed content
}

func thisHost() host {
	return host{
		uid:      os.Geteuid,
		mounts:   mayMount,
		release:  kernelRelease,
		openable: openDevice,
		tool:     exec.LookPath,
		file: func(path string) (string, error) {
			data, err := os.ReadFile(path)
			return strings.TrimSpace(string(data)), err
		},
	}
}

func kernelRelease() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("read kernel release: %w", err)
	}
	return unix.ByteSliceToString(name.Release[:]), nil
}

// mayMount reports whether this process has CAP_SYS_ADMIN, which root in a
// container usually lacks.
func mayMount() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData // 64 capabilities, 32 in each
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return false
	}
	return sets[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// openDevice opens and closes a device. A node that may not be opened is as
// good as missing, and a container shows many that are only there by name.
func openDevice(path string) error {
	device, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	info, err := device.Stat()
	if err == nil && info.Mode()&os.ModeCharDevice == 0 {
		err = fmt.Errorf("%s is no device", path)
	}
	return errors.Join(err, device.Close())
}

func (h host) check() checkDocument {
	findings := []findingDocument{h.checkRoot()}
	findings = append(findings,
		h.checkDevice("/dev/fuse", "load the fuse module, or add the device to this container"),
		h.checkDevice("/dev/loop-control", "load the loop module, or add the device to this container"),
		h.checkKernel(),
		h.checkURing(),
		h.checkTool("mount", "mount", true),
		h.checkTool("mkfs.ext4", "e2fsprogs", true),
		h.checkTool("mkfs.xfs", "xfsprogs", false),
	)
	document := checkDocument{Ready: true, Checks: findings}
	for _, f := range findings {
		if f.Required && !f.OK {
			document.Ready = false
		}
	}
	return document
}

func (h host) checkRoot() findingDocument {
	uid := h.uid()
	f := findingDocument{Name: "root", OK: uid == 0, Required: true, Found: "uid " + strconv.Itoa(uid), Remedy: "run as root: mounts and loop devices need it"}
	if uid == 0 && !h.mounts() {
		f.OK, f.Found, f.Remedy = false, "uid 0 without CAP_SYS_ADMIN", "run the container with --privileged: mounts and loop devices need it"
	}
	return f
}

func (h host) checkDevice(path, remedy string) findingDocument {
	f := findingDocument{Name: path, OK: true, Required: true, Found: "can be opened", Remedy: remedy}
	if err := h.openable(path); err != nil {
		f.OK, f.Found = false, err.Error()
	}
	return f
}

func (h host) checkKernel() findingDocument {
	f := findingDocument{Name: "kernel", Remedy: "from Linux 6.9 on, an engine can be replaced without an I/O error"}
	release, err := h.release()
	if err != nil {
		f.Found = err.Error()
		return f
	}
	f.Found = "Linux " + release
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n == 2 {
		f.OK = major > resendMajor || major == resendMajor && minor >= resendMinor
	}
	return f
}

func (h host) checkURing() findingDocument {
	const parameter = "/sys/module/fuse/parameters/enable_uring"
	f := findingDocument{Name: "fuse io_uring", Remedy: "optional, for speed: echo Y > " + parameter}
	value, err := h.file(parameter)
	if err != nil {
		f.Found = "not in this kernel"
		f.Remedy = "optional, for speed: needs Linux 6.14"
		return f
	}
	f.Found, f.OK = "enable_uring is "+value, value == "Y"
	return f
}

func (h host) checkTool(name, packageName string, required bool) findingDocument {
	f := findingDocument{Name: name, OK: true, Required: required, Remedy: "install " + packageName}
	path, err := h.tool(name)
	if err != nil {
		f.OK, f.Found = false, "not in PATH"
		return f
	}
	f.Found = path
	return f
}
