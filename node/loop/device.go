package loop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Device is an attached loop device.
type Device struct {
	Number      int    // N of /dev/loopN
	BackingFile string // absolute path, as seen when it was attached
}

// Path is the device node, /dev/loopN.
func (d Device) Path() string { return devicePath(d.Number) }

func devicePath(number int) string { return "/dev/loop" + strconv.Itoa(number) }

func backingPath(number int) string {
	return "/sys/block/loop" + strconv.Itoa(number) + "/loop/backing_file"
}

// List returns the devices that are attached now, by number. Devices come and
// go meanwhile: the answer is no promise.
func List() ([]Device, error) {
	found, err := filepath.Glob("/sys/block/loop*")
	if err != nil {
		return nil, fmt.Errorf("list loop devices: %w", err)
	}
	var devices []Device
	for _, dir := range found {
		number, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "loop"))
		if err != nil {
			continue // a name of another driver
		}
		d, err := Get(number)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		devices = append(devices, d)
	}
	return devices, nil
}

// Get describes device number, or returns ErrNotFound if it is not attached.
func Get(number int) (Device, error) {
	text, err := os.ReadFile(backingPath(number))
	switch {
	// A device that is detached while its attribute is being read has none
	// (ENXIO or ENODEV, by kernel version).
	case errors.Is(err, os.ErrNotExist), isGone(err):
		return Device{}, fmt.Errorf("%w: %s", ErrNotFound, devicePath(number))
	case err != nil:
		return Device{}, fmt.Errorf("read backing file of %s: %w", devicePath(number), err)
	}
	// The kernel marks a name that it no longer finds in the directory, as
	// happens to a FUSE file once its server is gone.
	file := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), " (deleted)")
	return Device{Number: number, BackingFile: file}, nil
}

// Find returns the device that is attached to file, an absolute path without
// symbolic links, or ErrNotFound. It does not touch the file.
func Find(file string) (Device, error) {
	devices, err := List()
	if err != nil {
		return Device{}, err
	}
	for _, d := range devices {
		if d.BackingFile == file {
			return d, nil
		}
	}
	return Device{}, fmt.Errorf("%w: backing file %s", ErrNotFound, file)
}
