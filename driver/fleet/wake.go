package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/engine/control"
)

// Wake has the engines of a group run, those of the volumes that have left it
// included where its past is wanted, and returns when all answer and the group
// has been started. They run until the returned function is called, and linger
// after. A group that has ended has nothing but a past. No key of the group may
// be held.
func (f *Fleet) Wake(ctx context.Context, name string, past bool) (release func(), err error) {
	volumes := f.inGroup(name, past)
	if _, err := f.groups.State(name); err != nil && len(volumes) == 0 {
		return nil, err
	}
	return f.wake(ctx, name, volumes)
}

func (f *Fleet) wake(ctx context.Context, name string, volumes []*volume) (release func(), err error) {
	var holds []func()
	release = func() {
		for _, drop := range holds {
			drop()
		}
	}
	starting, waiting := errgroup.WithContext(ctx)
	for _, v := range volumes {
		holds = append(holds, f.hold(v))
		starting.Go(func() error { return f.awake(waiting, v) })
	}
	if err := starting.Wait(); err != nil {
		release()
		return nil, err
	}
	unlock, err := f.locks.Lock(ctx, groupKey(name))
	if err != nil {
		release()
		return nil, err
	}
	defer unlock()
	if err := f.groups.Refresh(ctx, name); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// within has fn wait for engines, and for no longer than wait: ErrNoEngine, with what they
// are waited for.
func within(ctx context.Context, wait time.Duration, fn func(context.Context) error) error {
	return inTime(ctx, wait, "an engine has not come", "see what keeps its pod from running", ErrNoEngine, fn)
}

// inTime has fn wait for no longer than wait: kind, with what is late then, what to look at,
// and the error of fn.
func inTime(ctx context.Context, wait time.Duration, late, look string, kind error, fn func(context.Context) error) error {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := fn(waiting)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%s within %s: %s; this is tried again: %w: %w", late, wait, look, kind, err)
	}
	return err
}

// awake is served for one of several: a volume of which nothing has arrived does not
// keep its group, whether it is a member or has left it.
func (f *Fleet) awake(ctx context.Context, v *volume) error {
	_, err := f.served(ctx, v)
	if errors.Is(err, control.ErrNoStore) && f.hasNothing(v) {
		return nil
	}
	return err
}

// served waits until a volume's engine answers and has its orders carried out.
// An engine that goes away meanwhile is waited for again.
func (f *Fleet) served(ctx context.Context, v *volume) (control.State, error) {
	for {
		client, err := f.connected(ctx, v)
		if err != nil {
			return control.State{}, err
		}
		state, err := f.reorder(ctx, v, nil)
		if err == nil || ctx.Err() != nil || !connectionLost(err) {
			return state, err
		}
		if err := f.replaced(ctx, v, client); err != nil {
			return control.State{}, err
		}
	}
}

// connectionLost reports whether a call failed because its connection, not its
// caller, has ended.
func connectionLost(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, ErrNoEngine) || status.Code(err) == codes.Unavailable
}

// replaced waits until a client is not the volume's any more.
func (f *Fleet) replaced(ctx context.Context, v *volume, old *control.Client) error {
	for {
		f.mu.Lock()
		client, changed := v.client, v.changed
		f.mu.Unlock()
		if client != old {
			return nil
		}
		select {
		case <-changed:
		case <-f.ctx.Done():
			return ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
