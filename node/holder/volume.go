package holder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	holder     *Holder
	id         string
	dir        string // mount point
	blockBytes int
	readOnly   bool

	// lock holds one token: whoever has taken it may change what is mounted
	// and attached. A call that waits in the kernel for an engine keeps the
	// token after its caller has given up, so handing the descriptor to the
	// next engine must not need it.
	lock    chan struct{}
	removed bool // no longer the holder's: look the id up again

	mu   sync.Mutex // changes of what follows also need the token
	conn descriptor // noDescriptor until mounted or restored, and after the detach
	// rec describes the mount: its own, or what an earlier holder recorded.
	rec record
	// answer is that of the last question to the file system, for as long as it
	// has not come; see alive.
	answer <-chan error

	// lessee is the connection that the descriptor is leased to, or nil.
	// Guarded by Holder.mu, as are the two that follow.
	lessee *connection
	// spell is another one, of the whole holder, after each lease that began.
	spell uint64
	// unserved is when the last lease ended, or the volume came to this holder.
	unserved time.Time
}

func (h *Holder) newVolume(id string, blockBytes int, readOnly bool) *volume {
	v := &volume{
		holder: h, id: id, dir: filepath.Join(h.config.Dir, id), blockBytes: blockBytes, readOnly: readOnly,
		lock: make(chan struct{}, 1), conn: noDescriptor, spell: h.spells.Add(1), unserved: time.Now(),
	}
	v.unlock()
	return v
}

// begin makes c the lessee. Holder.mu is held.
func (v *volume) begin(c *connection) {
	v.lessee, v.spell = c, v.holder.spells.Add(1)
}

// end ends the lease. Holder.mu is held.
func (v *volume) end() {
	v.lessee, v.unserved = nil, time.Now()
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
// records that it was handed out. The copy is noDescriptor if the volume is not
// mounted, its connection was aborted, nobody can take over from the process that
// had it (fuse.TransportRing), or the mount is not the known one (record.isKnown).
// The caller has leased the volume, so that nobody reads from it.
func (v *volume) handOut(known *string) (reply, descriptor, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	spent := v.rec.Lease > 0 && v.rec.Init.Transport() == fuse.TransportRing
	if v.conn == noDescriptor || !v.conn.connected() || spent || !v.rec.isKnown(known) {
		return reply{}, noDescriptor, nil
	}
	// A copy of its own: a Detach may close the volume's while it is sent.
	twin, err := v.conn.copy()
	if err != nil {
		return reply{}, noDescriptor, err
	}
	next := v.rec
	next.Lease++
	if err := next.save(v.holder.config.Dir); err != nil {
		twin.close()
		return reply{}, noDescriptor, err
	}
	rep := reply{Init: &next.Init, Takeover: v.rec.Lease > 0, Lease: next.Lease, Identity: next.Identity}
	if rep.Takeover {
		v.holder.counters.takeovers.Add(1)
	}
	v.rec = next
	// As the first engine got it, not as the last one left it.
	_ = unix.SetNonblock(int(twin), false) // cannot fail for an open descriptor
	return rep, twin, nil
}

// mounted reports whether the volume has a connection, alive or not.
func (v *volume) mounted() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.conn != noDescriptor
}

// connected reports whether the volume's I/O waits for an engine, or has one.
func (v *volume) connected() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.conn != noDescriptor && v.conn.connected()
}

// transport is that of the present mount; empty when there is none.
func (v *volume) transport() fuse.Transport {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.rec.Volume == "" {
		return ""
	}
	return v.rec.Init.Transport()
}

// remount mounts the volume anew, over transport if the kernel grants that. The caller has the token and has seen that
// handOut returns no descriptor. ErrLeased if a process that this holder does
// not know keeps the present mount alive.
func (v *volume) remount(ctx context.Context, transport fuse.Transport) error {
	number, present, err := connectionAt(v.dir)
	if err != nil {
		return err
	}
	if present && !v.mounted() && v.alive(ctx) {
		return fmt.Errorf("%w: volume %s was attached before this holder started, and its engine has not come back", ErrLeased, v.id)
	}
	// New, or left by a holder that died with its engine, or aborted by somebody
	// else: whatever there is fails every request already.
	if err := v.forceClear(ctx, number); err != nil {
		return fmt.Errorf("clear away what is left of volume %s: %w", v.id, err)
	}
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	conn, init, err := mountVolume(v.id, v.dir, transport)
	if err != nil {
		return err
	}
	number, present, err = connectionAt(v.dir)
	if err == nil && !present {
		err = fmt.Errorf("mount %s: it is not in the mount table", v.dir)
	}
	rec := record{Volume: v.id, BlockBytes: v.blockBytes, ReadOnly: v.readOnly, Connection: number, Init: init, Identity: newIdentity()}
	if err == nil {
		err = rec.save(v.holder.config.Dir)
	}
	if err != nil {
		conn.close()
		return errors.Join(err, unmount(v.dir))
	}
	v.holder.counters.attaches.Add(1)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.conn, v.rec = conn, rec
	return nil
}

// alive reports whether some process keeps the mount's connection, which this
// holder has no descriptor of. If its engine does not answer it is. At most one
// question to a file system waits for its answer.
func (v *volume) alive(ctx context.Context) bool {
	v.mu.Lock()
	if v.answer == nil {
		v.answer = ask(v.dir)
	}
	answer := v.answer
	v.mu.Unlock()
	patience := time.NewTimer(aliveWait)
	defer patience.Stop()
	select {
	case err := <-answer:
		v.mu.Lock()
		v.answer = nil
		v.mu.Unlock()
		return !dead(err)
	case <-patience.C:
	case <-ctx.Done():
	}
	return true
}

// fileName is the name that the present mount's file has for its loop device;
// empty when there is no mount.
func (v *volume) fileName() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.rec.Volume == "" {
		return ""
	}
	return v.holder.id.fileName(v.id, v.rec.Connection)
}

// file is the path of the file that the device of the volume is made of.
func (v *volume) file() string { return filepath.Join(v.dir, v.fileName()) }

// attachLoop attaches the device if it is not attached yet.
func (v *volume) attachLoop(ctx context.Context) (path string, err error) {
	d, err := v.find()
	if err != nil {
		return "", err
	}
	if d == nil {
		attached, err := loop.Attach(ctx, v.file(), loop.Config{BlockBytes: v.blockBytes, ReadOnly: v.readOnly})
		if err != nil {
			return "", err
		}
		d = &attached
	}
	return d.Path(), nil
}

// find is the loop device over the present mount's file, also when an earlier
// holder attached it; nil means none. It asks sysfs, nobody's server.
func (v *volume) find() (*loop.Device, error) {
	name := v.fileName()
	if name == "" {
		return nil, nil
	}
	return findLoop(name)
}

func findLoop(name string) (*loop.Device, error) {
	d, err := loop.FindName(name)
	if errors.Is(err, loop.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &d, nil
}

// resize makes the device as large as the volume.
func (v *volume) resize() (sizeBytes int64, err error) {
	d, err := v.find()
	if err != nil {
		return 0, err
	}
	if d == nil {
		return 0, fmt.Errorf("%w: %s has no block device", ErrNotAttached, v.id)
	}
	return d.Resize(v.file())
}

// release detaches the device, which needs an engine to take its last writes
// unless the connection was aborted. ErrBusy leaves everything as it was.
func (v *volume) release(ctx context.Context) error {
	d, err := v.find()
	if err != nil || d == nil {
		return err
	}
	return v.inTurn(ctx, func() error { return detachLoop(ctx, *d) })
}

func detachLoop(ctx context.Context, d loop.Device) error {
	err := d.Detach(ctx)
	if errors.Is(err, loop.ErrBusy) {
		return fmt.Errorf("%w: %s", ErrBusy, d.Path())
	}
	return err
}

// remove unmounts the volume, closes its descriptor and forgets its record.
func (v *volume) remove() error {
	if err := unmount(v.dir); err != nil {
		return err
	}
	v.mu.Lock()
	v.conn.close()
	v.conn, v.rec = noDescriptor, record{}
	v.mu.Unlock()
	if err := os.Remove(v.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove mount point: %w", err)
	}
	return removeRecord(v.holder.config.Dir, v.id)
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
// fails. A device that is in use is ErrBusy and changes nothing; one whose engine
// this holder does not know, but lives, is ErrLeased.
func (v *volume) clear(ctx context.Context) error {
	used, err := v.inUse()
	if err != nil {
		return err
	}
	if used {
		return ErrBusy
	}
	number, present, err := connectionAt(v.dir)
	if err != nil {
		return err
	}
	if present && !v.mounted() && v.alive(ctx) {
		return fmt.Errorf("%w: its engine has not come back to this holder", ErrLeased)
	}
	return v.forceClear(ctx, number)
}

// forceClear is clear without regard to users of the device. It keeps existing,
// failing every request, until they are gone, and then detaches by itself. Without
// the volume's turn it is left as a device that fails.
// connection is that of what is mounted now, also if no record tells of it.
func (v *volume) forceClear(ctx context.Context, connection uint32) error {
	if err := abort(v.dir); err != nil {
		return err
	}
	name := v.fileName()
	if name == "" {
		name = v.holder.id.fileName(v.id, connection)
	}
	d, err := findLoop(name)
	if err != nil {
		return errors.Join(err, v.remove())
	}
	if d == nil {
		return v.remove()
	}
	// Who has the turn finds a device that fails, and gives it back soon.
	return v.inTurn(ctx, func() error { return errors.Join(giveUpLoop(ctx, *d), v.remove()) })
}

// inTurn calls do, which makes the number of the volume's device free, in the volume's turn:
// the node service may be about to format or to mount the device by that number, which can
// be another volume's the moment after. The caller has the token.
func (v *volume) inTurn(ctx context.Context, do func() error) error {
	return v.holder.config.Turn(ctx, v.id, do)
}

// lastUserWait is how long giveUpLoop waits for whoever has a device open: udev looks at
// every device for a moment.
const lastUserWait = 500 * time.Millisecond

// giveUpLoop detaches a device whose file fails every request, or leaves it to
// its last user: one that has it mounted or claimed, or merely open, which may be for as long
// as a pod runs that has a raw block volume.
func giveUpLoop(ctx context.Context, d loop.Device) error {
	brief, cancel := context.WithTimeout(ctx, lastUserWait)
	defer cancel()
	err := detachLoop(brief, d)
	switch {
	case errors.Is(err, ErrBusy):
		return d.Abandon()
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return nil // it was asked to go at its last close
	}
	return err
}
