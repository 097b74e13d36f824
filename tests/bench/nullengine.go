package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// nullDevice is the floor of the default transport: it keeps nothing of what
// the kernel hands it, and a flush makes one block of a file durable, which is
// the least that a flush can cost. Where it is slower than a plain loop device,
// no journal can make a volume faster than that.
type nullDevice struct{ file *os.File }

var oneBlock [4096]byte

func (nullDevice) SizeBytes() int64                                 { return deviceBytes }
func (nullDevice) ReadOnly() bool                                   { return false }
func (nullDevice) ReadAt(context.Context, []byte, int64) error      { return nil }
func (nullDevice) TryReadAt([]byte, int64) (bool, error)            { return true, nil }
func (nullDevice) WriteBatch(context.Context, []engine.Write) error { return nil }
func (nullDevice) Discard(context.Context, int64, int64) error      { return nil }

// WriteAt implements engine.Device.
func (d nullDevice) WriteAt(ctx context.Context, _ []byte, _ int64, fua bool) error {
	return d.flushIf(ctx, fua)
}

// WriteZeroes implements engine.Device.
func (d nullDevice) WriteZeroes(ctx context.Context, _, _ int64, fua bool) error {
	return d.flushIf(ctx, fua)
}

func (d nullDevice) flushIf(ctx context.Context, fua bool) error {
	if !fua {
		return nil
	}
	return d.Flush(ctx)
}

// Flush implements engine.Device.
func (d nullDevice) Flush(context.Context) error {
	if _, err := d.file.WriteAt(oneBlock[:], 0); err != nil {
		return err
	}
	return unix.Fdatasync(int(d.file.Fd()))
}

// BlockStatus implements engine.Device.
func (nullDevice) BlockStatus(_ context.Context, off, length int64, _ int) ([]engine.BlockRange, error) {
	return []engine.BlockRange{{Offset: off, Length: length}}, nil
}

// nullEngine serves a nullDevice on a block device.
func (b *bench) nullEngine() (string, error) {
	file, err := os.Create(b.env.Path("null.block"))
	if err != nil {
		return "", err
	}
	b.env.Undo(file.Close)
	return b.serve("null", nullDevice{file})
}

// serve serves a device in this process, over the default transport, as an engine
// does.
func (b *bench) serve(volume string, dev engine.Device) (string, error) {
	client, err := b.startHolder(volume)
	if err != nil {
		return "", err
	}
	session, err := client.Attach(b.ctx, holder.AttachConfig{Volume: volume, BlockBytes: 4096})
	if err != nil {
		return "", err
	}
	serving, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := fuse.Serve(serving, session, dev, fuse.Options{}); err != nil && !errors.Is(err, fuse.ErrUnmounted) {
			fmt.Fprintln(os.Stderr, volume+" engine:", err)
		}
	}()
	b.env.Undo(func() error {
		err := client.Detach(context.Background(), volume, true)
		stop()
		<-ended
		return err
	})
	return client.AttachLoop(b.ctx, volume)
}

// startHolder starts a holder of devices of its own.
func (b *bench) startHolder(name string) (*holder.Client, error) {
	exe, err := filepath.Abs(b.o.bin) // a holder has a working directory of its own
	if err != nil {
		return nil, err
	}
	socket, dir := b.env.Path(name+".sock"), b.env.Path(name)
	client, err := holder.Start(b.ctx, holder.StartConfig{
		Socket: socket, Exe: exe, Args: []string{"holder", "--socket", socket, "--dir", dir}, Log: os.Stderr,
	})
	if err != nil {
		return nil, fmt.Errorf("start holder %s: %w", name, err)
	}
	b.env.Undo(func() error { return client.Shutdown(context.Background()) })
	return client, nil
}
