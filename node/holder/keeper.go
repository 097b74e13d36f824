package holder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

// A Keeper dials again after redialMin at first, then after twice as long each
// time up to redialMax, for as long as it is not closed. One attempt takes at
// most redialTimeout.
const (
	redialMin     = 20 * time.Millisecond
	redialMax     = time.Second
	redialTimeout = 10 * time.Second
)

// KeeperConfig is what a Keeper needs.
type KeeperConfig struct {
	Socket string // of the holder
	AttachConfig
	// Log is told of holders that come and go; nil: nobody.
	Log *slog.Logger
}

// Keeper is an engine's lease of one volume, for as long as the engine lives:
// when the holder is replaced it gives the descriptor back to the next one,
// while the engine goes on serving. Its methods may be called concurrently. While
// no holder is there they wait for the next one, until their context ends.
type Keeper struct {
	config  KeeperConfig
	session fuse.Session
	granted granted
	stop    context.CancelFunc
	joined  sync.WaitGroup
	lost    chan struct{} // closed after err is set

	mu     sync.Mutex
	client *Client       // nil while there is no holder
	news   chan struct{} // closed and replaced with each change of client
	err    error         // why the lease was lost
}

// Keep attaches the volume as Client.Attach does, for which it waits for a
// holder until ctx ends, and keeps its lease from then on. The errors are those
// of Client.Attach; ErrLeased may pass, when an engine that is ending has ended
// or one of an earlier holder has come back.
func Keep(ctx context.Context, config KeeperConfig) (*Keeper, error) {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{config: config, lost: make(chan struct{}), news: make(chan struct{})}
	client, err := k.attach(ctx)
	if err != nil {
		return nil, err
	}
	k.client = client
	keeping, stop := context.WithCancel(context.Background())
	k.stop = stop
	k.joined.Go(func() { k.keep(keeping, client) })
	return k, nil
}

// attach waits for a holder and leases the volume from it.
func (k *Keeper) attach(ctx context.Context) (*Client, error) {
	for pause := redialMin; ; pause = min(2*pause, redialMax) {
		client, err := Dial(ctx, k.config.Socket)
		if err == nil {
			k.session, k.granted, err = client.attach(ctx, k.config.AttachConfig)
			if err == nil {
				return client, nil
			}
			_ = client.Close() // of no interest next to err
			if !errors.Is(err, ErrClosed) {
				return nil, err
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("attach volume %s: %w (last error: %w)", k.config.Volume, ctx.Err(), err)
		}
	}
}

// Session is what the engine serves. Its Conn belongs to the Keeper, which closes
// it in Close.
func (k *Keeper) Session() fuse.Session { return k.session }

// Identity tells the device from every other one that the volume had or will have
// anywhere; empty: a holder of an earlier version made it, and it has none.
func (k *Keeper) Identity() string { return k.granted.identity }

// Lost is closed when the lease is lost for good: a holder has another engine
// for the volume, or has it no more, or says that the descriptor is none of the
// volume's. The engine must then stop serving at once, and Err tells why. A
// holder that is away, or speaks another version of the protocol, is no loss.
func (k *Keeper) Lost() <-chan struct{} { return k.lost }

// Err is why the lease was lost, nil if it was not: ErrLeased, ErrSuperseded,
// ErrNotAttached, ErrForeign or ErrInvalid.
func (k *Keeper) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// AttachLoop is Client.AttachLoop for the Keeper's volume.
func (k *Keeper) AttachLoop(ctx context.Context) (path string, err error) {
	err = k.with(ctx, func(c *Client) error {
		path, err = c.AttachLoop(ctx, k.config.Volume)
		return err
	})
	return path, err
}

// Resize is Client.Resize for the Keeper's volume.
func (k *Keeper) Resize(ctx context.Context) (sizeBytes int64, err error) {
	err = k.with(ctx, func(c *Client) error {
		sizeBytes, err = c.Resize(ctx, k.config.Volume)
		return err
	})
	return sizeBytes, err
}

// Detach is Client.Detach for the Keeper's volume. The session must be served
// until it returns.
func (k *Keeper) Detach(ctx context.Context, force bool) error {
	err := k.with(ctx, func(c *Client) error { return c.Detach(ctx, k.config.Volume, force) })
	if errors.Is(err, ErrNotAttached) {
		return nil // the holder that did it did not live to say so
	}
	return err
}

// Withdraw is Client.Withdraw for the Keeper's volume. The session must be served
// until it returns.
func (k *Keeper) Withdraw(ctx context.Context, look bool) error {
	err := k.with(ctx, func(c *Client) error { return c.Withdraw(ctx, k.config.Volume, look) })
	if errors.Is(err, ErrNotAttached) {
		return nil // the holder that did it did not live to say so
	}
	return err
}

// Close gives the lease back, so that another engine can serve the volume, and
// closes the session's Conn. Serve must have returned. Until ctx ends it waits
// for a holder to have the descriptor: an error means that there was none, and
// that the device, if it was not detached, fails from now on.
func (k *Keeper) Close(ctx context.Context) error {
	// Of a holder that ends meanwhile the descriptor goes to the next one, for which it has
	// to be open: it may be the last.
	err := k.with(ctx, func(c *Client) error { return c.Release(ctx, k.config.Volume) })
	k.stop()
	k.joined.Wait()
	_ = k.session.Conn.Close() // nothing was written that could be lost
	k.mu.Lock()
	client, lost := k.client, k.err != nil
	k.mu.Unlock()
	switch {
	case lost:
		return nil // nothing is left to give back
	case client == nil:
		return err
	}
	return errors.Join(err, client.Close())
}

// with calls fn with a connection that holds the lease, again when it breaks.
func (k *Keeper) with(ctx context.Context, fn func(*Client) error) error {
	for {
		client, err := k.holder(ctx)
		if err != nil {
			return err
		}
		err = fn(client)
		if !errors.Is(err, ErrClosed) {
			return err
		}
		k.drop(client)
	}
}

// holder returns the connection that holds the lease, and waits for it.
func (k *Keeper) holder(ctx context.Context) (*Client, error) {
	for {
		k.mu.Lock()
		client, news, err := k.client, k.news, k.err
		k.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case client != nil:
			return client, nil
		}
		select {
		case <-news:
		case <-k.lost:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the holder of volume %s: %w", k.config.Volume, ctx.Err())
		}
	}
}

// drop notes that a connection has broken.
func (k *Keeper) drop(broken *Client) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.client == broken {
		k.client = nil
	}
}

// keep gives the descriptor to each holder after that of client, until ctx ends
// or the lease is lost.
func (k *Keeper) keep(ctx context.Context, client *Client) {
	for {
		select {
		case <-client.Done():
		case <-ctx.Done():
			return
		}
		k.drop(client)
		_ = client.Close() // it is broken already
		k.config.Log.Warn("holder is gone, the device works on", "volume", k.config.Volume)
		if client = k.reconnect(ctx); client == nil {
			return
		}
	}
}

// reconnect returns the connection to the next holder, which has the descriptor;
// nil at the end.
func (k *Keeper) reconnect(ctx context.Context) *Client {
	told := false
	for pause := redialMin; ; pause = min(2*pause, redialMax) {
		client, err := k.giveBack(ctx)
		switch {
		case err == nil:
			k.mu.Lock()
			k.client = client
			close(k.news)
			k.news = make(chan struct{})
			k.mu.Unlock()
			return client
		case lostFor(err):
			k.config.Log.Error("lease of the device is lost", "volume", k.config.Volume, "error", err)
			k.mu.Lock()
			k.err = err
			k.mu.Unlock()
			close(k.lost)
			return nil
		case errors.Is(err, ErrVersion) && !told:
			told = true
			k.config.Log.Error("the new holder does not take the device back; restart this engine while the device is not in use", "volume", k.config.Volume, "error", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// giveBack dials the holder and gives it the descriptor.
func (k *Keeper) giveBack(ctx context.Context) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, redialTimeout)
	defer cancel()
	client, err := Dial(ctx, k.config.Socket)
	if err != nil {
		return nil, err
	}
	device, err := client.restore(ctx, k.config.AttachConfig, k.session, k.granted.lease)
	if err != nil {
		_ = client.Close() // of no interest next to err
		return nil, err
	}
	k.config.Log.Info("holder has the device back", "volume", k.config.Volume, "device", device)
	return client, nil
}

// lostFor tells the errors of a restore that trying again does not cure.
func lostFor(err error) bool {
	for _, final := range []error{ErrLeased, ErrSuperseded, ErrNotAttached, ErrForeign, ErrInvalid} {
		if errors.Is(err, final) {
			return true
		}
	}
	return false
}
