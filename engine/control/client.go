package control

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	enginev1 "github.com/lockstep-csi/lockstep/api/engine/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

// Client calls one volume's engine. Its methods may be called concurrently;
// contexts bound them. Errors match the sentinels of this package, of engine
// and of journal.
type Client struct {
	volume journal.VolumeID
	rpc    enginev1.EngineClient
}

// NewClient makes a client over a connection, which stays the caller's.
func NewClient(volume journal.VolumeID, conn grpc.ClientConnInterface) *Client {
	return &Client{volume: volume, rpc: enginev1.NewEngineClient(conn)}
}

// Volume is whose engine this is.
func (c *Client) Volume() journal.VolumeID { return c.volume }

func (c *Client) fail(err error) error { return fromStatus(c.volume, err) }

// Watch calls fn with the engine's state, at once and after changes, until
// ctx ends or the engine is gone. ErrNotEngine if another volume's answers.
func (c *Client) Watch(ctx context.Context, fn func(State)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Watch(ctx, &enginev1.WatchRequest{})
	if err != nil {
		return c.fail(err)
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return c.fail(err)
		}
		state, err := c.state(m)
		if err != nil {
			return err
		}
		fn(state)
	}
}

// ErrNotEngine means that the engine at an address is another volume's.
var ErrNotEngine = errors.New("another volume's engine")

func (c *Client) state(m *enginev1.State) (State, error) {
	state, err := decodeState(m)
	if err == nil && state.Volume != c.volume {
		err = fmt.Errorf("engine of volume %s answers as volume %s: %w", c.volume, state.Volume, ErrNotEngine)
	}
	return state, err
}

// Order has orders carried out and returns the state after it.
func (c *Client) Order(ctx context.Context, o Orders) (State, error) {
	m, err := c.rpc.Order(ctx, encodeOrders(o))
	if err != nil {
		return State{}, c.fail(err)
	}
	return c.state(m)
}

// Withdraw has orders without a device carried out if nothing uses the device that
// there is, and returns the state after it: ErrDeviceInUse, also from an engine that
// cannot know. nil: it only looks.
func (c *Client) Withdraw(ctx context.Context, o *Orders) (State, error) {
	req := &enginev1.WithdrawRequest{}
	if o != nil {
		req.Orders = encodeOrders(*o)
	}
	m, err := c.rpc.Withdraw(ctx, req)
	if status.Code(err) == codes.Unimplemented {
		return State{}, fmt.Errorf("the engine of volume %s is of a version that keeps its device until it is detached: %w", c.volume, ErrDeviceInUse)
	}
	if err != nil {
		return State{}, c.fail(err)
	}
	return c.state(m)
}

// Fence ends incoming replication of lower terms for good.
func (c *Client) Fence(ctx context.Context, term uint64) error {
	_, err := c.rpc.Fence(ctx, &enginev1.FenceRequest{Term: term})
	return c.fail(err)
}

// Lift lowers a fence that is not above a term that was given up to the one
// that the controller holds.
func (c *Client) Lift(ctx context.Context, givenUp, held uint64) error {
	_, err := c.rpc.Fence(ctx, &enginev1.FenceRequest{GivenUp: givenUp, Term: held})
	return c.fail(err)
}

// Dirty reports whether anything changed since the last checkpoint.
func (c *Client) Dirty(ctx context.Context) (bool, error) {
	m, err := c.rpc.Dirty(ctx, &enginev1.DirtyRequest{})
	return m.GetDirty(), c.fail(err)
}

// Prepare stops admitting changes and waits for those in flight.
func (c *Client) Prepare(ctx context.Context, round uint64, hold time.Duration) error {
	_, err := c.rpc.Prepare(ctx, &enginev1.PrepareRequest{Round: round, Hold: durationpb.New(hold)})
	return c.fail(err)
}

// Commit appends the checkpoint and lifts the barrier.
func (c *Client) Commit(ctx context.Context, round uint64, point journal.Checkpoint) (journal.Position, error) {
	m, err := c.rpc.Commit(ctx, &enginev1.CommitRequest{Round: round, Checkpoint: encodeCheckpoint(point)})
	return decodePosition(m.GetPosition()), c.fail(err)
}

// Abort lifts the barrier of a round. An engine that does not answer lifts it
// by itself.
func (c *Client) Abort(ctx context.Context, round uint64) {
	_, _ = c.rpc.Abort(ctx, &enginev1.AbortRequest{Round: round})
}

// Flush makes everything acknowledged so far durable.
func (c *Client) Flush(ctx context.Context) error {
	_, err := c.rpc.Flush(ctx, &enginev1.FlushRequest{})
	return c.fail(err)
}

// Checkpoints lists the durable checkpoints of a group with numbers in
// [from, to], ascending; 0 leaves an end open.
func (c *Client) Checkpoints(ctx context.Context, group string, from, to journal.CheckpointNumber) ([]journal.Checkpoint, error) {
	all, _, err := c.checkpoints(ctx, &enginev1.CheckpointsRequest{Group: group, From: uint64(from), To: uint64(to)})
	return all, err
}

// PinnedCheckpoints lists those checkpoints of a group that a pin keeps, ascending, and
// apart from them those of which it keeps what a rewind has left (journal.Store's
// LeftCheckpoints); of an engine of a version before, all of the former and none of the latter.
func (c *Client) PinnedCheckpoints(ctx context.Context, group string) (pinned, left []journal.Checkpoint, err error) {
	return c.checkpoints(ctx, &enginev1.CheckpointsRequest{Group: group, Pinned: true})
}

// Outline lists the durable checkpoints of a group, ascending, in a fraction of the
// bytes of Checkpoints: they need not have a position.
func (c *Client) Outline(ctx context.Context, group string) ([]journal.Checkpoint, error) {
	all, _, err := c.checkpoints(ctx, &enginev1.CheckpointsRequest{Group: group, Outline: true})
	return all, err
}

// OpenableCheckpoints is Checkpoints with those, too, that the history does not keep
// any more and that can still be opened; without them from an engine of a version
// before.
func (c *Client) OpenableCheckpoints(ctx context.Context, group string, from, to journal.CheckpointNumber) ([]journal.Checkpoint, error) {
	all, _, err := c.checkpoints(ctx, &enginev1.CheckpointsRequest{Group: group, From: uint64(from), To: uint64(to), Openable: true})
	return all, err
}

// Hold keeps a position that can be opened, as journal.Store's; with a number other than 0 that
// checkpoint there, as its HoldCheckpoint. An engine of a version before, which has nothing of
// the kind, is taken to.
func (c *Client) Hold(ctx context.Context, name string, at journal.Position, number journal.CheckpointNumber, d time.Duration) error {
	_, err := c.rpc.Hold(ctx, &enginev1.HoldRequest{Name: name, At: encodePosition(at), Checkpoint: uint64(number), For: durationpb.New(d)})
	if status.Code(err) == codes.Unimplemented {
		return nil
	}
	return c.fail(err)
}

// Release ends a Hold; no error if there is none.
func (c *Client) Release(ctx context.Context, name string) error {
	_, err := c.rpc.Release(ctx, &enginev1.ReleaseRequest{Name: name})
	if status.Code(err) == codes.Unimplemented {
		return nil
	}
	return c.fail(err)
}

// KeepPoint is Volume's. An engine of an older version keeps nothing, and that is no error.
func (c *Client) KeepPoint(ctx context.Context, at journal.Position, d time.Duration) error {
	_, err := c.rpc.KeepPoint(ctx, &enginev1.KeepPointRequest{At: encodePosition(at), For: durationpb.New(d)})
	if status.Code(err) == codes.Unimplemented {
		return nil
	}
	return c.fail(err)
}

// checkpoints returns what a request asks for, and what is left if it asks for that.
func (c *Client) checkpoints(ctx context.Context, req *enginev1.CheckpointsRequest) (all, left []journal.Checkpoint, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Checkpoints(ctx, req)
	if err != nil {
		return nil, nil, c.fail(err)
	}
	for {
		batch, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, left, nil
		}
		if err != nil {
			return nil, nil, c.fail(err)
		}
		if all, err = appendCheckpoints(all, batch.GetCheckpoints()); err != nil {
			return nil, nil, err
		}
		if left, err = appendCheckpoints(left, batch.GetLeft()); err != nil {
			return nil, nil, err
		}
		if all, err = appendOutline(all, req.GetGroup(), batch.GetOutline()); err != nil {
			return nil, nil, fmt.Errorf("list checkpoints of volume %s: %w", c.volume, err)
		}
	}
}

func appendCheckpoints(all []journal.Checkpoint, batch []*enginev1.Checkpoint) ([]journal.Checkpoint, error) {
	for _, m := range batch {
		point, err := decodeCheckpoint(m)
		if err != nil {
			return nil, err
		}
		all = append(all, point)
	}
	return all, nil
}

// Fork begins a timeline, unless the active one was begun for this reason.
func (c *Client) Fork(ctx context.Context, at journal.Position, reason string) error {
	_, err := c.rpc.Fork(ctx, &enginev1.ForkRequest{At: encodePosition(at), Reason: reason})
	return c.fail(err)
}

// Pin keeps a position under a name.
func (c *Client) Pin(ctx context.Context, name string, at journal.Position) error {
	_, err := c.rpc.Pin(ctx, &enginev1.PinRequest{Name: name, At: encodePosition(at)})
	return c.fail(err)
}

// PinCheckpoint keeps a checkpoint under a name, as journal.Store's.
func (c *Client) PinCheckpoint(ctx context.Context, name string, number journal.CheckpointNumber, at journal.Position) error {
	_, err := c.rpc.Pin(ctx, &enginev1.PinRequest{Name: name, At: encodePosition(at), Checkpoint: uint64(number)})
	return c.fail(err)
}

// Unpin lets go of a pin; no error if there is none.
func (c *Client) Unpin(ctx context.Context, name string) error {
	_, err := c.rpc.Unpin(ctx, &enginev1.UnpinRequest{Name: name})
	return c.fail(err)
}

// SizeAt is the volume's size in bytes at a position that can be opened.
func (c *Client) SizeAt(ctx context.Context, at journal.Position) (int64, error) {
	m, err := c.rpc.SizeAt(ctx, &enginev1.SizeAtRequest{At: encodePosition(at)})
	return m.GetSizeBytes(), c.fail(err)
}

// Resize makes the volume at least sizeBytes big and returns its size.
func (c *Client) Resize(ctx context.Context, sizeBytes int64) (int64, error) {
	m, err := c.rpc.Resize(ctx, &enginev1.ResizeRequest{SizeBytes: sizeBytes})
	return m.GetSizeBytes(), c.fail(err)
}

// OpenView shows the image at a position on the engine's NBD server.
func (c *Client) OpenView(ctx context.Context, id string, at journal.Position) (export string, err error) {
	m, err := c.rpc.OpenView(ctx, &enginev1.OpenViewRequest{Id: id, At: encodePosition(at)})
	return m.GetExport(), c.fail(err)
}

// CloseView ends OpenView; ErrNoView.
func (c *Client) CloseView(ctx context.Context, id string) error {
	_, err := c.rpc.CloseView(ctx, &enginev1.CloseViewRequest{Id: id})
	return c.fail(err)
}

// ReadImage reads the image that a pin keeps: begin is called with its size,
// then write with its data, ascending; what is not written reads as zeroes.
// write does not keep p. Every chunk's checksum is verified.
func (c *Client) ReadImage(ctx context.Context, pin string, begin func(sizeBytes int64) error, write func(p []byte, off int64) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.ReadImage(ctx, &enginev1.ReadImageRequest{Of: &enginev1.ReadImageRequest_Pin{Pin: pin}})
	if err != nil {
		return c.fail(err)
	}
	first, err := stream.Recv()
	if err != nil {
		return c.fail(err)
	}
	size, next := first.GetSizeBytes(), int64(0)
	if err := begin(size); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return c.fail(err)
		}
		off, p := m.GetOffset(), m.GetData()
		if off < next || off > size-int64(len(p)) {
			return fmt.Errorf("read image of volume %s: chunk of %d bytes at %d, want it in [%d, %d): %w", c.volume, len(p), off, next, size, journal.ErrRange)
		}
		if got := crc32.Checksum(p, castagnoli); got != m.GetCrc32C() {
			return fmt.Errorf("read image of volume %s: %w", c.volume, &journal.CorruptError{File: "wire", Offset: off, What: "image chunk",
				Wanted: fmt.Sprintf("crc %08x", m.GetCrc32C()), Found: fmt.Sprintf("crc %08x", got)})
		}
		if err := write(p, off); err != nil {
			return err
		}
		next = off + int64(len(p))
	}
}
