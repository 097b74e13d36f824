package holder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/node/loop"
)

// abortGrace is how long Detach lets the kernel take for steps that need no
// engine before it concludes that they wait for one.
const abortGrace = 2 * time.Second

// volume is one mounted file system and the device over it.
type volume struct {
	id         string
	dir        string // mount point
	blockBytes int
	readOnly   bool

	// lock holds one token: whoever has taken it may change what is mounted
	// and attached. A call that waits in the kernel for an engine keeps the
	// token after its caller has given up, so handing the descriptor to the
	// next engine must not need it.
	lock    chan struct{}
	device  *loop.Device
	removed bool // no longer the holder's: look the id up again

	mu        sync.Mutex // changes of what follows also need the token
	conn      *os.File   // nil until mounted and after the detach
	init      fuse.InitState
	handedOut bool

	// lessee is the connection that the descriptor is leased to, or nil.
	// Guarded by server.mu.
	lessee *connection
}

func newVolume(id, dir string, blockBytes int, readOnly bool) *volume {
	v := &volume{id: id, dir: dir, blockBytes: blockBytes, readOnly: readOnly, lock: make(chan struct{}, 1)}
	v.unlock()
	return v
}

// acquire takes the volume's token, or gives up with ctx.
func (v *volume) acquire(ctx context.Context) error {
	select {
	case <-v.lock:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for an earlier call on volume %s: %w", v.id, ctx.Err())
	}
}

func (v *volume) unlock() { v.lock <- struct{}{} }

// leaveBehind runs fn, which may wait in the kernel for an engine, and waits
// for it until ctx ends. The caller must have taken the token and must not
// touch the volume afterwards: the token is given back when fn returns,
// which may be long after leaveBehind did.
func (v *volume) leaveBehind(ctx context.Context, fn func() error) error {
	result := make(chan error, 1)
	go func() {
		defer v.unlock()
		result <- fn()
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the engine of volume %s: %w", v.id, ctx.Err())
	}
}

// handOut returns a copy of the descriptor with the reply that goes with it, and
// notes that it was handed out. The copy is nil if the volume is not mounted or
// its connection was aborted.
func (v *volume) handOut() (reply, *os.File, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.conn == nil || !connected(v.conn) {
		return reply{}, nil, nil
	}
	// A copy of its own: a Detach may close the volume's while it is sent.
	fd, err := unix.FcntlInt(v.conn.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return reply{}, nil, fmt.Errorf("copy descriptor: %w", os.NewSyscallError("fcntl", err))
	}
	init := v.init
	rep := reply{Init: &init, Takeover: v.handedOut}
	v.handedOut = true
	return rep, os.NewFile(uintptr(fd), "/dev/fuse"), nil
}

// mounted reports whether the volume has a connection, alive or not.
func (v *volume) mounted() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.conn != nil
}

// remount mounts the volume anew. The caller has the token and has seen that
// handOut returns no descriptor.
func (v *volume) remount(ctx context.Context) error {
	// Either new, left by a holder that died, or aborted by somebody else.
	if err := v.clear(ctx); err != nil {
		return fmt.Errorf("clear away what is left of volume %s: %w", v.id, err)
	}
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	conn, init, err := mountVolume(v.id, v.dir)
	if err != nil {
		return err
	}
	v.device = nil
	v.mu.Lock()
	defer v.mu.Unlock()
	v.conn, v.init, v.handedOut = conn, init, false
	return nil
}

// attachLoop attaches the device if it is not attached yet.
func (v *volume) attachLoop(ctx context.Context) (path string, err error) {
	if v.device != nil {
		return v.device.Path(), nil
	}
	d, err := loop.Attach(ctx, fileIn(v.dir), loop.Config{BlockBytes: v.blockBytes, ReadOnly: v.readOnly})
	if err != nil {
		return "", err
	}
	v.device = &d
	return d.Path(), nil
}

// find is the loop device over the volume's file, also when an earlier holder
// attached it; nil means none.
func (v *volume) find() (*loop.Device, error) {
	d, err := loop.Find(fileIn(v.dir))
	if errors.Is(err, loop.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &d, nil
}

// release detaches the device, which needs an engine to take its last writes
// unless the connection was aborted. ErrBusy leaves everything as it was.
func (v *volume) release(ctx context.Context) error {
	d, err := v.find()
	if err != nil {
		return err
	}
	if d != nil {
		err := d.Detach(ctx)
		if errors.Is(err, loop.ErrBusy) {
			return fmt.Errorf("%w: %s", ErrBusy, d.Path())
		}
		if err != nil {
			return err
		}
	}
	v.device = nil
	return nil
}

// remove unmounts the volume and closes its descriptor.
func (v *volume) remove() error {
	if err := unmount(v.dir); err != nil {
		return err
	}
	v.mu.Lock()
	if v.conn != nil {
		_ = v.conn.Close()
		v.conn = nil
	}
	v.mu.Unlock()
	if err := os.Remove(v.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove mount point: %w", err)
	}
	return nil
}

// inUse reports whether the volume's device is mounted or otherwise claimed.
func (v *volume) inUse() (bool, error) {
	d, err := v.find()
	if err != nil || d == nil {
		return false, err
	}
	return d.InUse()
}

// clear gets rid of a volume that nobody serves: I/O that waits for an engine
// fails. A device that is in use is ErrBusy and changes nothing.
func (v *volume) clear(ctx context.Context) error {
	used, err := v.inUse()
	if err != nil {
		return err
	}
	if used {
		return ErrBusy
	}
	return v.forceClear(ctx)
}

// forceClear is clear without regard to users of the device. It keeps existing,
// failing every request, until they are gone, and then detaches by itself.
func (v *volume) forceClear(ctx context.Context) error {
	if err := abort(v.dir); err != nil {
		return err
	}
	err := v.release(ctx)
	if errors.Is(err, ErrBusy) {
		err = v.abandon()
	}
	return errors.Join(err, v.remove())
}

// abandon leaves the device to its last user.
func (v *volume) abandon() error {
	d, err := v.find()
	if err != nil || d == nil {
		return err
	}
	v.device = nil
	return d.Abandon()
}
