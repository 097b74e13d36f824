package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// Missing says what this machine lacks to run real sites with programs; nil if
// nothing. Each error names one thing and what to do about it.
func Missing(programs ...string) error {
	if os.Geteuid() != 0 {
		return errors.New("not root: devices are attached and mounted here; run it with sudo")
	}
	var errs []error
	for _, device := range []struct{ path, remedy string }{
		{"/dev/fuse", "load it with `modprobe fuse`; in a container pass --device /dev/fuse"},
		{"/dev/loop-control", "load it with `modprobe loop`; in a container pass --privileged"},
	} {
		f, err := os.OpenFile(device.path, os.O_RDWR, 0)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s cannot be opened (%w): %s", device.path, err, device.remedy))
			continue
		}
		errs = append(errs, f.Close())
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
