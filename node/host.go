package node

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
)

// Host is the part of the machine that tests replace: devices, mounts and the
// file systems' tools. Its methods may be called concurrently.
type Host interface {
	// Device describes the block device at path; an error if there is none.
	Device(path string) (Device, error)
	// Mounts returns the mount table, older mounts first.
	Mounts() ([]Mount, error)
	// MountDevice mounts a file system. sensitive are further options that
	// must not appear in logs or errors.
	MountDevice(device, target, fsType string, options, sensitive []string) error
	// Bind makes source appear at target. There is no moment at which a
	// read-only one could be written to.
	Bind(source, target string, readOnly bool) error
	// Unmount removes the topmost mount at target. At the last mount of a file
	// system it waits for its device.
	Unmount(target string) error
	// Run runs one of the file systems' tools and returns what it printed and
	// its exit code. err is set only if the tool could not be run to its end.
	Run(ctx context.Context, tool string, args ...string) (output string, code int, err error)
	// Blank reports whether both ends of a device hold nothing but zeroes.
	Blank(path string) (bool, error)
	// Fresh reports whether a file system, which is not mounted, is as mkfs has left
	// it, whole or not: nobody can have written to it. It is false for a type that it
	// does not know. Of xfs it is known only until mkfs is done.
	Fresh(path, fsType string) (bool, error)
	// Ext4Bytes returns the size of the ext4 file system on a device, mounted
	// or not.
	Ext4Bytes(path string) (int64, error)
}

// Device is a block device.
type Device struct {
	Path      string
	Number    DeviceNumber
	SizeBytes int64
	ReadOnly  bool
}

// DeviceNumber tells devices apart, whatever their paths.
type DeviceNumber struct{ Major, Minor uint32 }

// Mount is one line of the mount table.
type Mount struct {
	Point  string
	Root   string       // what of the file system is mounted: "/", or a path in it
	FSType string       //
	Device DeviceNumber // of the file system
	// Node is the device itself where a device node is what is mounted, as for
	// a published raw block volume; else zero.
	Node          DeviceNumber
	ReadOnly      bool // this mount
	SuperReadOnly bool // the whole file system
}

// isOf reports whether a mount shows a device: its file system or itself.
func (m *Mount) isOf(number DeviceNumber) bool {
	return m.Device == number || m.Node == number
}

// mountsAt returns the mounts at a path, topmost last.
func (s *Server) mountsAt(path string) ([]Mount, error) {
	return s.mounts(func(m *Mount) bool { return m.Point == path })
}

func (s *Server) mounts(keep func(*Mount) bool) ([]Mount, error) {
	all, err := s.host.Mounts()
	if err != nil {
		return nil, fmt.Errorf("read mount table: %w", err)
	}
	return slices.DeleteFunc(all, func(m Mount) bool { return !keep(&m) }), nil
}

// canonical returns path as the mount table spells it. Its last element is
// left alone: looking at it fails when the device behind a mount is dead.
func canonical(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", invalid("path %q is not absolute", path)
	}
	path = filepath.Clean(path)
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(path)), nil
}
