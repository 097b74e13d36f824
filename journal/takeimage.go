package journal

import (
	"errors"
	"fmt"
	"path"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TakeImage makes a store whose base is an existing raw image, without copying
// it: the image's file becomes base.img, with a root timeline of its own, and
// loses the name that it had. spec.SizeBytes must be the file's size.
//
// At every moment the image is untouched under its old name, or the store is
// whole, or both: base.img is a second name of the file (a hard link) until the
// store is durable, and only then the first one goes. So image must be on the
// store's file system, and that must know hard links. Nobody may have the file
// open.
//
// An error before the store is there leaves no store. ErrLeftName is one after.
// Called again after a crash it goes on, or finds the store: ErrExists.
func TakeImage(cfg Config, spec Spec, image string) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if err := spec.validate(); err != nil {
		return err
	}
	if path.Dir(cfg.file("x")) == path.Dir(path.Clean(image)) {
		return fmt.Errorf("take image %s: it lies in the directory of its store, whose files an import replaces: %w", image, ErrRange)
	}
	im := &Import{cfg: cfg, spec: spec, image: image}
	if err := im.begin(); err != nil {
		return err
	}
	if err := im.Commit(); err != nil {
		return err
	}
	return LeaveName(cfg, image)
}

// LeaveName ends a TakeImage that was interrupted when the store was whole: the image
// loses its old name. Durable on return; ErrLeftName if that name is left.
func LeaveName(cfg Config, image string) error {
	err := cfg.FS.SyncDir(path.Dir(cfg.file(volumeFile))) // who made it a store may not have lived to
	if err == nil {
		err = cfg.FS.Remove(image)
	}
	if err == nil {
		err = cfg.FS.SyncDir(path.Dir(image))
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w: %w", image, ErrLeftName, err)
	}
	return nil
}

// linkImage makes the image the base, which has its size already.
func (im *Import) linkImage() (vfs.File, error) {
	name := im.cfg.file(baseFile)
	if err := im.cfg.FS.Link(im.image, name); err != nil {
		return nil, err
	}
	base, err := im.cfg.FS.Open(name)
	var size int64
	if err == nil {
		size, err = base.Size()
	}
	if err == nil && size != im.spec.SizeBytes {
		err = fmt.Errorf("%s has %d bytes, and not %d: %w", im.image, size, im.spec.SizeBytes, ErrRange)
	}
	if err == nil {
		return base, nil
	}
	if base != nil {
		err = errors.Join(err, base.Close())
	}
	return nil, errors.Join(err, im.cfg.FS.Remove(name)) // the second name goes again
}
