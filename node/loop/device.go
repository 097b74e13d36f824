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
	Number int // N of /dev/loopN
	// BackingFile is the path of its file as the kernel shows it to this process
	// now. It is not a constant of the device: a file whose mount went away with
	// the mount namespace of a container is shown relative to the root of its
	// file system. Its last element stays.
	BackingFile string
	// Seq is the kernel's number of this attachment (diskseq, Linux 5.15), which
	// no other has until the next boot; 0 where there is none.
	Seq uint64
}

// Path is the device node, /dev/loopN.
func (d Device) Path() string { return devicePath(d.Number) }

func devicePath(number int) string { return "/dev/loop" + strconv.Itoa(number) }

// Name is the last element of the backing file's path.
func (d Device) Name() string { return filepath.Base(d.BackingFile) }

// is reports whether two descriptions are of the same attachment.
func (d Device) is(other Device) bool {
	return d.Number == other.Number && d.Seq == other.Seq && d.Name() == other.Name()
}

func attributePath(number int, attribute string) string {
	return "/sys/block/loop" + strconv.Itoa(number) + "/" + attribute
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
	// The number first: if the device is attached to something else in between,
	// the pair belongs to no attachment and matches none.
	seq, err := sequence(number)
	if err != nil {
		return Device{}, err
	}
	text, err := os.ReadFile(attributePath(number, "loop/backing_file"))
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
	return Device{Number: number, BackingFile: file, Seq: seq}, nil
}

// sequence reads the attachment's number; 0 where the kernel has none.
func sequence(number int) (uint64, error) {
	text, err := os.ReadFile(attributePath(number, "diskseq"))
	switch {
	case errors.Is(err, os.ErrNotExist), isGone(err):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read sequence number of %s: %w", devicePath(number), err)
	}
	seq, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read sequence number of %s: %w", devicePath(number), err)
	}
	return seq, nil
}

// Find returns the device that is attached to file, an absolute path without
// symbolic links, or ErrNotFound. It does not touch the file.
func Find(file string) (Device, error) {
	return find(func(d Device) bool { return d.BackingFile == file }, file)
}

// FindName returns the device whose file has that name in whatever directory,
// or ErrNotFound. It is for names that nobody else uses, and finds a device also
// when the path of its file is not what it was; see Device.BackingFile. It does
// not touch the file.
func FindName(name string) (Device, error) {
	return find(func(d Device) bool { return d.Name() == name }, name)
}

func find(wanted func(Device) bool, what string) (Device, error) {
	devices, err := List()
	if err != nil {
		return Device{}, err
	}
	for _, d := range devices {
		if wanted(d) {
			return d, nil
		}
	}
	return Device{}, fmt.Errorf("%w: backing file %s", ErrNotFound, what)
}
