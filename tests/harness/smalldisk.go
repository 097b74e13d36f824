package harness

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// SmallDisk is an ext4 file system of its own, in a file, that a test fills and
// empties. What fills it takes no room of the machine's.
type SmallDisk struct {
	Dir string // where it is mounted

	ballast []string
}

// MountSmallDisk makes one of so many bytes and mounts it on a directory of the Env.
// What is started in there must be started afterwards, so that it ends before.
func (e *Env) MountSmallDisk(ctx context.Context, name string, bytes int64) (*SmallDisk, error) {
	image := e.Path(name + ".disk")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, bytes)); err != nil {
		return nil, err
	}
	// No blocks that only root may use: what is refused is refused to everybody.
	if _, err := Run(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", image); err != nil {
		return nil, err
	}
	d := &SmallDisk{Dir: e.Path(name)}
	_, err := e.MountImage(ctx, image, "ext4", d.Dir)
	return d, err
}

// Fill takes all that is free but some bytes away.
func (d *SmallDisk) Fill(leaveBytes int64) error {
	for step := int64(64 << 20); step >= 4096; {
		_, free, err := vfs.OS{}.Space(d.Dir)
		if err != nil {
			return err
		}
		if leaveBytes > 0 && free-leaveBytes < step {
			step /= 2
			continue
		}
		name := fmt.Sprintf("%s/ballast-%d", d.Dir, len(d.ballast))
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, unix.ENOSPC) {
			return nil
		}
		if err == nil {
			err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, step), f.Close())
		}
		switch {
		case errors.Is(err, unix.ENOSPC):
			err = os.Remove(name)
			step /= 2
		case err == nil:
			d.ballast = append(d.ballast, name)
		}
		if err != nil {
			return fmt.Errorf("fill %s: %w", d.Dir, err)
		}
	}
	return nil
}

// Empty gives it back.
func (d *SmallDisk) Empty() error {
	var errs []error
	for _, name := range d.ballast {
		errs = append(errs, os.Remove(name))
	}
	d.ballast = nil
	return errors.Join(errs...)
}
