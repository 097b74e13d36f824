package journal

import (
	"errors"
	"fmt"
	"path"
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
	err := cfg.FS.Remove(image)
	if err == nil {
		err = cfg.FS.SyncDir(path.Dir(image))
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w: %w", image, ErrLeftName, err)
	}
	return nil
}

// linkImage makes the image the base. What it holds is durable before anything
// says that it is a store's.
func (im *Import) linkImage() error {
	if err := im.cfg.FS.Link(im.image, im.cfg.file(baseFile)); err != nil {
		return err
	}
	err := im.openLinked()
	if err != nil { // the second name goes again
		err = errors.Join(err, im.cfg.FS.Remove(im.cfg.file(baseFile)))
	}
	return err
}

func (im *Import) openLinked() (err error) {
	if im.base, err = im.cfg.FS.Open(im.cfg.file(baseFile)); err != nil {
		return err
	}
	size, err := im.base.Size()
	if err == nil && size != im.spec.SizeBytes {
		err = fmt.Errorf("%s has %d bytes, and not %d: %w", im.image, size, im.spec.SizeBytes, ErrRange)
	}
	return err
}
