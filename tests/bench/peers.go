package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// rawFile makes a fully written file, so that no peer pays for allocation.
func (b *bench) rawFile(name string, sizeBytes int64) (string, error) {
	path := b.env.Path(name)
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	chunk := make([]byte, 4<<20)
	for off := int64(0); off < sizeBytes; off += int64(len(chunk)) {
		if _, err := f.WriteAt(chunk, off); err != nil {
			return "", err
		}
	}
	return path, f.Sync()
}

// plainLoop attaches a file with direct I/O: the yardstick.
func (b *bench) plainLoop(name string) (string, error) {
	file, err := b.rawFile(name+".raw", deviceBytes)
	if err != nil {
		return "", err
	}
	out, err := harness.Run(b.ctx, "losetup", "--direct-io=on", "--sector-size=4096", "--find", "--show", file)
	if err != nil {
		return "", err
	}
	device := strings.TrimSpace(out)
	b.env.Undo(func() error { return exec.Command("losetup", "--detach", device).Run() })
	return device, nil
}

// qemuExport starts qemu-storage-daemon with a raw FUSE export and returns the
// exported file.
func (b *bench) qemuExport() (string, error) {
	file, err := b.rawFile("qemu.raw", deviceBytes)
	if err != nil {
		return "", err
	}
	mount := b.env.Path("qemu-export")
	if err := os.WriteFile(mount, nil, 0o600); err != nil {
		return "", err
	}
	cmd := exec.Command("qemu-storage-daemon",
		"--blockdev", "driver=file,node-name=disk,filename="+file+",cache.direct=on,aio=io_uring",
		"--export", "type=fuse,id=export,node-name=disk,mountpoint="+mount+",writable=on")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start qemu-storage-daemon: %w", err)
	}
	b.env.Undo(func() error {
		err := cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it reports the signal
		return err
	})
	return mount, harness.Until(b.ctx, 20*time.Millisecond, func() error {
		info, err := os.Stat(mount)
		if err == nil && info.Size() != deviceBytes {
			err = fmt.Errorf("%s has %d bytes yet", mount, info.Size())
		}
		return err
	})
}
