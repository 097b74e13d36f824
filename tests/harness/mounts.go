package harness

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Unmount takes away what is mounted at the paths, lazily: what is broken
// must not hold up the clean-up.
func Unmount(paths ...string) error {
	var errs []error
	for _, p := range paths {
		for mounted(p) {
			if err := unix.Unmount(p, unix.MNT_DETACH); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
				break
			}
		}
	}
	return errors.Join(errs...)
}

// unmountBelow is Unmount for all that is mounted in a directory.
func (e *Env) unmountBelow(dir string) error {
	all, err := e.mounts()
	for _, path := range all {
		if strings.HasPrefix(path, dir+"/") {
			err = errors.Join(err, Unmount(path))
		}
	}
	return err
}

func mounted(path string) bool {
	b, err := os.ReadFile("/proc/self/mounts")
	return err == nil && strings.Contains(string(b), " "+path+" ")
}
