package holder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

// Client is a connection to a holder. Its leases last as long as it does, so a
// process keeps one Client for all its engines, from before the first Serve
// until after the last has returned. Methods may be called concurrently; each
// takes its deadline from its context and the holder gives up then too. When
// the connection breaks they return ErrClosed.
type Client struct {
	socket *net.UnixConn
	done   chan struct{} // closed when the receiving goroutine has ended

	mu      sync.Mutex
	nextID  uint64
	waiting map[uint64]*pending // by request id; entries leave with their reply
}

// pending is a request whose reply has not come.
type pending struct {
	volume    string
	abandoned bool        // guarded by Client.mu: the caller has given up
	arrived   chan answer // capacity 1
}

// answer is a reply with the descriptor that came with it, or noDescriptor.
type answer struct {
	reply
	conn descriptor
}

// Dial connects to the holder that listens on socket.
func Dial(ctx context.Context, socket string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", socket)
	if err != nil {
		return nil, fmt.Errorf("dial holder: %w", err)
	}
	c := &Client{
		socket:  conn.(*net.UnixConn),
		done:    make(chan struct{}),
		waiting: make(map[uint64]*pending),
	}
	go c.receive()
	return c, nil
}

// Done is closed when the connection has ended, by Close or because the holder
// is gone. Devices that are being served work on without their holder, but
// nobody can take them over any more until a Keeper has brought the descriptor
// to the next one.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection and every lease that it holds. Every Serve on a
// descriptor from this client must have returned.
func (c *Client) Close() error {
	err := c.socket.Close()
	<-c.done
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close connection to holder: %w", err)
	}
	return nil
}

// AttachConfig says what device a volume gets.
type AttachConfig struct {
	Volume     string // at most 128 of A-Z a-z 0-9 . _ -, not starting with . or -
	BlockBytes int    // logical block size: a power of two from 512 to 4096
	ReadOnly   bool
	// Transport is a wish; empty leaves it to the holder (Config.Transport). Where
	// the kernel, this process or the present mount of the volume does not have
	// what is wanted, the session's Fallback says why.
	Transport fuse.Transport
	// Known is the identity of the device that the volume had last, anywhere
	// (Keeper.Identity); empty: none may be taken over. Another device that waits here
	// is taken away from its users, as by Holder.Revoke, and the volume gets a new one.
	// nil: that is not known, and whatever waits is taken over, as are devices that have
	// no identity.
	Known *string
}

// Attach makes the volume's file system if there is none and leases its
// descriptor to this client. The caller serves the session, owns its Conn, and
// gives the lease back with Release after Serve has returned and Conn is closed.
//
// ErrLeased: an engine has it already; ErrInvalid: the volume is attached with
// another configuration; ErrBusy: what an earlier holder left of the volume is
// still in use; ErrFull.
func (c *Client) Attach(ctx context.Context, config AttachConfig) (fuse.Session, error) {
	session, _, err := c.attach(ctx, config)
	return session, err
}

// granted is what an attach is answered with beside the session.
type granted struct {
	lease    uint64 // its number
	identity string // of the mount; empty: it has none
}

// attach also returns what else the holder says.
func (c *Client) attach(ctx context.Context, config AttachConfig) (fuse.Session, granted, error) {
	unable := fuse.ProbeRing() // the holder's process may be allowed what this one is not
	a, err := c.call(ctx, request{
		Op: opAttach, Volume: config.Volume, BlockBytes: config.BlockBytes, ReadOnly: config.ReadOnly, Transport: config.Transport, Ring: unable == nil, Known: config.Known,
	}, nil)
	if err != nil {
		return fuse.Session{}, granted{}, fmt.Errorf("attach volume %s: %w", config.Volume, err)
	}
	if a.conn == noDescriptor || a.Init == nil {
		a.conn.close()
		return fuse.Session{}, granted{}, fmt.Errorf("attach volume %s: %w: no descriptor in reply", config.Volume, ErrVersion)
	}
	conn := os.NewFile(uintptr(a.conn), "/dev/fuse")
	return fuse.Session{Conn: conn, Init: *a.Init, Takeover: a.Takeover, Fallback: a.fallback(unable)}, granted{a.Lease, a.Identity}, nil
}

// fallback is why the session that an attach was answered with is not over
// io_uring although it was to be.
func (a *answer) fallback(unable error) error {
	switch {
	case a.Wanted != fuse.TransportRing || a.Init.Transport() == fuse.TransportRing:
		return nil
	case unable != nil:
		return fmt.Errorf("this process cannot use io_uring: %w", unable)
	case a.Takeover:
		return fmt.Errorf("its device was made over %s, and is still there", a.Init.Transport())
	default:
		return fuse.ErrNotOffered
	}
}

// restore gives the descriptor of a session back to a holder, which keeps a copy
// of it, and leases it to this client again. The session may be served meanwhile.
func (c *Client) restore(ctx context.Context, config AttachConfig, session fuse.Session, lease uint64) (device string, err error) {
	a, err := c.call(ctx, request{
		Op: opRestore, Volume: config.Volume, BlockBytes: config.BlockBytes, ReadOnly: config.ReadOnly,
		Init: &session.Init, Lease: lease,
	}, session.Conn)
	if err != nil {
		return "", fmt.Errorf("give volume %s back: %w", config.Volume, err)
	}
	return a.Device, nil
}

// AttachLoop returns the path of the volume's block device, and attaches it
// first if need be. This client must be serving the volume: the kernel opens
// the file. ErrNotServed, ErrNotAttached.
func (c *Client) AttachLoop(ctx context.Context, volume string) (path string, err error) {
	a, err := c.call(ctx, request{Op: opAttachLoop, Volume: volume}, nil)
	if err != nil {
		return "", fmt.Errorf("attach loop device of volume %s: %w", volume, err)
	}
	return a.Device, nil
}

// Resize makes the block device as large as the engine's device is now, and
// returns its size in bytes. This client must be serving the volume.
// ErrNotServed, ErrNotAttached.
func (c *Client) Resize(ctx context.Context, volume string) (sizeBytes int64, err error) {
	a, err := c.call(ctx, request{Op: opResize, Volume: volume}, nil)
	if err != nil {
		return 0, fmt.Errorf("resize device of volume %s: %w", volume, err)
	}
	return a.SizeBytes, nil
}

// Release gives the lease of a volume back, so that another engine can serve
// it. I/O waits until one does. Serve must have returned. A volume that this
// client has not leased is success.
func (c *Client) Release(ctx context.Context, volume string) error {
	if _, err := c.call(ctx, request{Op: opRelease, Volume: volume}, nil); err != nil {
		return fmt.Errorf("release volume %s: %w", volume, err)
	}
	return nil
}

// Detach removes the volume's block device and file system. If an engine serves
// the volume it must go on doing so until Detach returns; Serve then returns
// fuse.ErrUnmounted. If nobody does, I/O under way fails. A volume that is not
// attached is success.
//
// A device that is mounted or claimed is ErrBusy, and stays as it is. With
// force it is taken away nevertheless: its users get I/O errors.
func (c *Client) Detach(ctx context.Context, volume string, force bool) error {
	if _, err := c.call(ctx, request{Op: opDetach, Volume: volume, Force: force}, nil); err != nil {
		return fmt.Errorf("detach volume %s: %w", volume, err)
	}
	return nil
}

// Withdraw is Detach for a volume that this client serves and that may be wanted
// at any moment: ErrBusy, and nothing has changed, if anything on the node has it
// mounted, claimed, published or open. With look nothing changes, and who merely
// has the device open is not seen. ErrInvalid from a holder that does not know how.
func (c *Client) Withdraw(ctx context.Context, volume string, look bool) error {
	if _, err := c.call(ctx, request{Op: opWithdraw, Volume: volume, Look: look}, nil); err != nil {
		return fmt.Errorf("withdraw volume %s: %w", volume, err)
	}
	return nil
}

// List describes the volumes that the holder keeps, by id.
func (c *Client) List(ctx context.Context) ([]Volume, error) {
	a, err := c.call(ctx, request{Op: opList}, nil)
	if err != nil {
		return nil, fmt.Errorf("list volumes of holder: %w", err)
	}
	return a.Volumes, nil
}

// Shutdown makes the holder detach everything by force and end. It returns when
// the holder has closed the connection, which it does before it detaches.
func (c *Client) Shutdown(ctx context.Context) error {
	// The connection may close before or after the reply: both are success.
	if _, err := c.call(ctx, request{Op: opShutdown}, nil); err != nil && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("shut holder down: %w", err)
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("shut holder down: %w", ctx.Err())
	}
}

// call sends one request, with a copy of conn unless that is nil, and waits for
// its answer.
func (c *Client) call(ctx context.Context, req request, conn *os.File) (answer, error) {
	req.Version = protocolVersion
	if deadline, ok := ctx.Deadline(); ok {
		req.TimeoutMillis = max(time.Until(deadline).Milliseconds(), 1)
	}
	p := &pending{volume: req.Volume, arrived: make(chan answer, 1)}
	c.mu.Lock()
	c.nextID++
	req.ID = c.nextID
	c.waiting[req.ID] = p
	c.mu.Unlock()

	packet, err := json.Marshal(req)
	if err != nil {
		return answer{}, fmt.Errorf("encode request: %w", err)
	}
	var rights []byte
	if conn != nil {
		rights = unix.UnixRights(int(conn.Fd()))
	}
	if _, _, err := c.socket.WriteMsgUnix(packet, rights, nil); err != nil {
		return answer{}, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	select {
	case a := <-p.arrived:
		return a, a.Error.decode()
	case <-c.done:
		return answer{}, ErrClosed
	case <-ctx.Done():
	}
	c.mu.Lock()
	p.abandoned = true
	c.mu.Unlock()
	select {
	case a := <-p.arrived: // it came at the last moment, maybe with a lease
		return a, a.Error.decode()
	default:
		return answer{}, ctx.Err()
	}
}

// receive delivers replies until the connection ends.
func (c *Client) receive() {
	defer close(c.done)
	packet := make([]byte, maxPacketBytes)
	rights := make([]byte, unix.CmsgSpace(4))
	for {
		n, rn, _, _, err := c.socket.ReadMsgUnix(packet, rights)
		if err != nil || n == 0 {
			_ = c.socket.Close()
			return
		}
		a := answer{conn: descriptorIn(rights[:rn])}
		if err := json.Unmarshal(packet[:n], &a.reply); err != nil {
			a.conn.close()
			_ = c.socket.Close()
			return
		}
		c.deliver(a)
	}
}

// deliver hands a reply to its caller. A lease that was granted to a caller
// who had given up is given back at once.
func (c *Client) deliver(a answer) {
	c.mu.Lock()
	p := c.waiting[a.ID]
	delete(c.waiting, a.ID)
	wanted := p != nil && !p.abandoned
	if wanted {
		p.arrived <- a
	}
	c.mu.Unlock()
	if wanted || a.conn == noDescriptor {
		return
	}
	a.conn.close()
	if p == nil {
		return // a reply to nothing: not a lease of ours
	}
	packet, err := json.Marshal(request{Version: protocolVersion, Op: opRelease, Volume: p.volume})
	if err == nil {
		_, err = c.socket.Write(packet)
	}
	if err != nil {
		_ = c.socket.Close() // which ends the lease as well
	}
}

// descriptorIn is the one descriptor of a control message, or noDescriptor. There
// is room for one; the kernel closes what does not fit.
func descriptorIn(rights []byte) descriptor {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return noDescriptor
	}
	var found []int
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err == nil {
			found = append(found, fds...)
		}
	}
	if len(found) == 1 {
		return descriptor(found[0])
	}
	// The room for one descriptor is, by its alignment, room for two.
	for _, fd := range found {
		descriptor(fd).close()
	}
	return noDescriptor
}
