package enginepod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// HolderDevices provides block devices through the node's holder.
type HolderDevices struct {
	Volume journal.VolumeID
	Socket string // of the holder
	Log    *slog.Logger
}

var _ Devices = HolderDevices{}

// releaseTimeout bounds giving a descriptor back at the end: without a holder
// it goes with the process, and the volume heals at the next stage.
const releaseTimeout = 20 * time.Second

// askTimeout bounds asking the holder what waits there: orders wait for it.
const askTimeout = 5 * time.Second

// reportTimeout bounds telling the holder why there is no device.
const reportTimeout = 5 * time.Second

// Attach implements Devices.
func (d HolderDevices) Attach(ctx context.Context, how control.Attach, dev engine.Device, last *string, keep func(identity string) error) (Device, error) {
	keeper, err := holder.Keep(ctx, holder.KeeperConfig{Socket: d.Socket, Log: d.Log,
		AttachConfig: holder.AttachConfig{Volume: d.Volume.String(), BlockBytes: how.BlockBytes, ReadOnly: how.ReadOnly, Known: last}})
	if err != nil {
		return nil, fmt.Errorf("ask the holder at %s: %w", d.Socket, err)
	}
	if err := keep(keeper.Identity()); err != nil {
		return nil, errors.Join(err, keeper.Close(ctx))
	}
	a := &attached{keeper: keeper, log: d.Log, lost: make(chan struct{})}
	serving, stop := context.WithCancel(context.Background())
	a.stop = stop
	// Without somebody who serves it the file system does not let it be opened.
	attaching, giveUp := context.WithCancel(ctx)
	defer giveUp()
	a.joined.Go(func() {
		err := fuse.Serve(serving, keeper.Session(), dev, fuse.Options{Log: d.Log})
		if serving.Err() == nil {
			a.noteEnd(fmt.Errorf("serve device of volume %s: %w", d.Volume, err))
			giveUp()
		}
	})
	a.joined.Go(func() {
		select {
		case <-keeper.Lost():
			a.lose()
		case <-serving.Done():
		}
	})
	a.path, err = keeper.AttachLoop(attaching)
	if ended := a.failure(); ended != nil {
		err = ended
	}
	if err != nil {
		return nil, errors.Join(err, a.Release())
	}
	return a, nil
}

// Waiting implements Devices. A device that is away fails every request already, and is
// nobody's to take over. That the holder did not draw an identity, or does not tell it,
// Attach finds out.
func (d HolderDevices) Waiting(ctx context.Context, last *string) (*control.Attach, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	client, err := holder.Dial(ctx, d.Socket)
	if err != nil {
		return nil, err
	}
	defer hangUp(client)
	volumes, err := client.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range volumes {
		known := last == nil || v.Identity == "" || *last == v.Identity
		if v.ID == d.Volume.String() && known && !v.Away {
			return &control.Attach{BlockBytes: v.BlockBytes, ReadOnly: v.ReadOnly}, nil
		}
	}
	return nil, nil
}

// attached implements Device.
type attached struct {
	keeper *holder.Keeper
	path   string
	log    *slog.Logger
	stop   context.CancelFunc
	joined sync.WaitGroup
	lost   chan struct{} // closed by lose
	losing sync.Once

	mu    sync.Mutex
	going bool  // guarded by mu; the device is being taken away, with which serving it ends
	ended error // guarded by mu; why it is served no more
}

// noteEnd notes that the device is served no more, although nobody has stopped that: its
// connection was aborted, or a call failed that should not. Nobody else would find out.
func (a *attached) noteEnd(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = err
	if !a.going {
		a.log.Error("frontend ended", "error", err)
		a.lose()
	}
}

func (a *attached) lose() { a.losing.Do(func() { close(a.lost) }) }

func (a *attached) failure() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ended
}

// takeAway calls take, which takes the device away. What becomes of the lease then is no error:
// there is nothing left that it would be of, and nobody to try again with.
func (a *attached) takeAway(take func() error) error {
	a.setGoing(true)
	if err := take(); err != nil {
		a.setGoing(false)
		return err
	}
	if err := a.Release(); err != nil {
		a.log.Warn("the lease of a device that is gone was not given back", "device", a.path, "error", err)
	}
	return nil
}

// setGoing has the end of the frontend be expected, or not any more.
func (a *attached) setGoing(going bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.going = going
	if !going && a.ended != nil {
		a.lose()
	}
}

func (a *attached) Path() string { return a.path }

func (a *attached) Transport() (fuse.Transport, error) {
	session := a.keeper.Session()
	return session.Init.Transport(), session.Fallback
}

func (a *attached) Resize(ctx context.Context) error {
	_, err := a.keeper.Resize(ctx)
	return err
}

// Detach implements Device. The device is served until the holder has let it
// go: the kernel flushes it.
func (a *attached) Detach(ctx context.Context) error {
	return a.takeAway(func() error {
		err := a.keeper.Detach(ctx, false)
		if errors.Is(err, holder.ErrBusy) {
			return fmt.Errorf("%s is still open or mounted: %w", a.path, control.ErrDeviceInUse)
		}
		return err
	})
}

func (a *attached) Unused(ctx context.Context) error { return a.inUse(a.keeper.Withdraw(ctx, true)) }

// Withdraw implements Device. As in Detach the device is served meanwhile.
func (a *attached) Withdraw(ctx context.Context) error {
	return a.takeAway(func() error { return a.inUse(a.keeper.Withdraw(ctx, false)) })
}

// inUse gives a refusal of the holder its meaning for orders. One that does not know
// what a withdraw is finds it invalid.
func (a *attached) inUse(err error) error {
	switch {
	case errors.Is(err, holder.ErrBusy):
		return fmt.Errorf("%w: %w", control.ErrDeviceInUse, err)
	case errors.Is(err, holder.ErrInvalid):
		return fmt.Errorf("the node plugin is of a version that keeps %s until it is detached: %w", a.path, control.ErrDeviceInUse)
	}
	return err
}

// Abandon implements Device.
func (a *attached) Abandon(ctx context.Context) error {
	return a.takeAway(func() error { return a.keeper.Detach(ctx, true) })
}

func (a *attached) Release() error {
	a.stop()
	a.joined.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	return a.keeper.Close(ctx)
}

func (a *attached) Lost() <-chan struct{} { return a.lost }
