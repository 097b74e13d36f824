package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-csi/lockstep/node/loop"
)

// leftoversTimeout is how long processes that were told to end may take.
const leftoversTimeout = 10 * time.Second

// Leftovers looks for what Close should have taken away: mounts, loop devices,
// processes and files of the Env. It waits a moment for what is about to end
// and returns an error that names the rest.
func (e *Env) Leftovers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leftoversTimeout)
	defer cancel()
	return Until(ctx, 50*time.Millisecond, func() error {
		var found []error
		for _, look := range []func() ([]string, error){e.mounts, e.loops, e.processes, e.files} {
			names, err := look()
			if err != nil {
				found = append(found, err)
			}
			for _, name := range names {
				found = append(found, fmt.Errorf("left behind: %s", name))
			}
		}
		return errors.Join(found...)
	})
}

func (e *Env) owns(path string) bool { return strings.Contains(path, e.Dir+"/") }

// mounts finds mount points.
func (e *Env) mounts() ([]string, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) > 1 && e.owns(fields[1]+"/") {
			found = append(found, fields[1])
		}
	}
	return found, nil
}

// loops finds devices by their backing files. The file of a volume whose mount
// was taken away while the device was still in use is shown without its directory.
func (e *Env) loops() ([]string, error) {
	attached, err := loop.List()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, d := range attached {
		if e.owns(d.BackingFile) || e.devices[d.Name()] {
			found = append(found, "loop device "+d.Path())
		}
	}
	return found, nil
}

// processes finds those that name the Env in their arguments or write to a log
// in it.
func (e *Env) processes() ([]string, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	logging := processesOf(e.owns)
	var found []string
	for _, file := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if b, err := os.ReadFile(file); err == nil && (e.owns(string(b)) || slices.Contains(logging, pid)) {
			found = append(found, fmt.Sprintf("process %d %s", pid, strings.ReplaceAll(string(b), "\x00", " ")))
		}
	}
	return found, nil
}

// files finds the Env's directory.
func (e *Env) files() ([]string, error) {
	_, err := os.Lstat(e.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return []string{e.Dir}, err
}
