package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// devices are what a site opens, by the kernel module that makes them.
var devices = map[string]string{"fuse": "/dev/fuse", "loop": "/dev/loop-control"}

// openDevice opens and closes a character device.
func openDevice(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeCharDevice == 0 {
		return errors.New("not a device")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// Missing says what this machine lacks to run real sites with programs; nil if
// nothing. Each error names one thing and what to do about it.
func Missing(programs ...string) error {
	if os.Geteuid() != 0 {
		return errors.New("not root: devices are attached and mounted here; run it with sudo")
	}
	var errs []error
	for _, module := range []string{"fuse", "loop"} {
		if err := openDevice(devices[module]); err != nil {
			errs = append(errs, fmt.Errorf("%s cannot be opened (%w): load it with `modprobe %s`; in a container pass --privileged", devices[module], err, module))
		}
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			errs = append(errs, fmt.Errorf("%s is not installed: run tests/setup.sh", program))
		}
	}
	return errors.Join(errs...)
}

// MissingPostgres says whether PostgreSQL is missing.
func MissingPostgres() error {
	if _, err := PostgresBin(); err != nil {
		return fmt.Errorf("%w: run tests/setup.sh", err)
	}
	return nil
}
