package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// MountImage attaches a raw image to a loop device of its own and mounts it.
// unmountImage takes both away; so does the Env's Close.
func (e *Env) MountImage(ctx context.Context, image, fsType, target string) (unmountImage func() error, err error) {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return nil, err
	}
	device, err := Run(ctx, "losetup", "--find", "--show", image)
	if err != nil {
		return nil, err
	}
	device = strings.TrimSpace(device)
	done := false
	undo := func() error {
		if done {
			return nil
		}
		done = true
		_, err := Run(context.Background(), "losetup", "--detach", device)
		return errors.Join(Unmount(target), err)
	}
	e.Undo(undo)
	args := []string{"-t", fsType}
	if fsType == "xfs" {
		args = append(args, "-o", "nouuid") // the volume itself is mounted as well
	}
	if _, err := Run(ctx, "mount", append(args, device, target)...); err != nil {
		return nil, errors.Join(fmt.Errorf("mount image: %w", err), undo())
	}
	return undo, nil
}
