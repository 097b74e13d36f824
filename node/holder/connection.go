package holder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxCalls is how many requests of one connection are served at once; the next
// is read when one of them has been answered.
const maxCalls = 32

// connection is one client. Leases belong to it.
type connection struct {
	holder *Holder
	socket *net.UnixConn
	calls  sync.WaitGroup
	places chan struct{} // capacity maxCalls
	ended  chan struct{} // closed when its leases have ended
	// trouble is why it cannot serve a volume. Guarded by Holder.mu.
	trouble trouble
}

func newConnection(h *Holder, socket *net.UnixConn) *connection {
	return &connection{holder: h, socket: socket, places: make(chan struct{}, maxCalls), ended: make(chan struct{})}
}

// run serves requests until the client is gone. The leases end only after the
// last request has been given up, or an Attach could be granted to nobody.
func (c *connection) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	packet := make([]byte, maxPacketBytes)
	rights := make([]byte, unix.CmsgSpace(4))
	for {
		n, rn, _, _, err := c.socket.ReadMsgUnix(packet, rights)
		if err != nil || n == 0 {
			break // a broken or closed socket: for leases it is the same
		}
		given := descriptorIn(rights[:rn])
		req, err := decodeRequest(packet[:n])
		if err != nil {
			given.close()
			c.send(reply{ID: req.ID, Error: encodeError(err)}, noDescriptor)
			continue
		}
		c.places <- struct{}{}
		c.calls.Go(func() {
			defer func() { <-c.places }()
			c.answer(ctx, req, given)
		})
	}
	cancel() // or a call that waits for this client's engine would keep the lease
	c.calls.Wait()
	_ = c.socket.Close()
	c.holder.disconnected(c)
	close(c.ended)
}

// hungUp reports whether the client's side of the socket is closed.
func (c *connection) hungUp() bool {
	raw, err := c.socket.SyscallConn()
	if err != nil {
		return true
	}
	var events int16
	err = raw.Control(func(fd uintptr) {
		if found, err := pollNow(int(fd), 0); err == nil { // POLLHUP is always reported
			events = found
		}
	})
	return err != nil || events&unix.POLLHUP != 0
}

// answer serves one request within its deadline, with the descriptor that came
// with it.
func (c *connection) answer(ctx context.Context, req request, given descriptor) {
	limit := c.holder.config.CallTimeout
	if asked := time.Duration(req.TimeoutMillis) * time.Millisecond; asked > 0 {
		limit = min(limit, asked)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	rep, conn, err := c.holder.call(ctx, c, req, given)
	if errors.Is(err, context.Canceled) { // by run: if the client is still there, the holder is ending
		err = fmt.Errorf("%w: %w", errEnding, err)
	}
	if err != nil {
		rep = reply{Error: encodeError(err)}
	}
	rep.ID = req.ID
	c.send(rep, conn)
}

// send writes one reply, with conn if that is a descriptor, and closes it. If it
// cannot be sent the client is gone, which the reader will find out.
func (c *connection) send(rep reply, conn descriptor) {
	defer conn.close()
	rep.Version = protocolVersion
	packet, err := json.Marshal(rep)
	if err != nil || len(packet) > maxPacketBytes {
		err = fmt.Errorf("encode reply of %d bytes: %w", len(packet), err)
		c.holder.config.Log.Error("cannot answer", "error", err)
		_ = c.socket.Close()
		return
	}
	var rights []byte
	if conn != noDescriptor {
		rights = unix.UnixRights(int(conn))
	}
	if _, _, err := c.socket.WriteMsgUnix(packet, rights, nil); err != nil {
		c.holder.config.Log.Info("client left before it was answered", "error", err)
	}
}
