package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// smallest is the least size that mkfs.xfs accepts.
	smallest = 300 << 20
	// largest stands for what a storage system has left.
	largest = 1 << 40
)

// store is the folder of all volumes: of each a folder with its image and, while it is attached, the node's name.
type store string

// A volume's id is the name that csi-provisioner makes of the claim's UID; nothing else becomes a path.
var validID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func (s store) folder(id string) (string, error) {
	if !validID.MatchString(id) {
		return "", status.Errorf(codes.InvalidArgument, "volume id %q", id)
	}
	return filepath.Join(string(s), id), nil
}

// image returns the path and size of a volume's image.
func (s store) image(id string) (string, int64, error) {
	folder, err := s.folder(id)
	if err != nil {
		return "", 0, err
	}
	path := filepath.Join(folder, "image")
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", 0, status.Errorf(codes.NotFound, "no volume %s", id)
	}
	if err != nil {
		return "", 0, err
	}
	return path, info.Size(), nil
}

// attachedTo returns the node that has a volume, or "".
func (s store) attachedTo(id string) (string, error) {
	folder, err := s.folder(id)
	if err != nil {
		return "", err
	}
	name, err := os.ReadFile(filepath.Join(folder, "node"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(name)), err
}

// resize makes a volume's image, or makes it bigger.
func (s store) resize(id string, size int64) error {
	folder, err := s.folder(id)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(folder, "image"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}
