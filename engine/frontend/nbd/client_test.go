package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// clientOptions is what a test client negotiates.
type clientOptions struct {
	structured bool
	allocation bool // needs structured
	exportName bool // enter with EXPORT_NAME instead of GO
}

// client is a small NBD client. Calls may be made concurrently.
type client struct {
	conn  net.Conn
	in    *bufio.Reader
	size  int64
	flags uint16
	ended chan struct{} // closed when the receiver has ended

	writing sync.Mutex

	mu      sync.Mutex
	cookie  uint64
	pending map[uint64]*pendingCall
	err     error // why the receiver ended
}

// pendingCall is a request without its last reply yet.
type pendingCall struct {
	offset  uint64
	into    []byte // for reads
	covered int    // bytes of into that chunks described
	chunks  []uint16
	extents []uint32 // length, flags, length, flags, …
	err     error
	done    chan struct{}
}

// nbdError is a failed request as the client was told of it.
type nbdError struct {
	errno   syscall.Errno
	message string
}

func (e *nbdError) Error() string { return fmt.Sprintf("%v (%s)", e.errno, e.message) }
func (e *nbdError) Unwrap() error { return e.errno }

// dial connects, negotiates and starts receiving.
func dial(t *testing.T, path, export string, o clientOptions) *client {
	t.Helper()
	c, err := connect(path, export, o)
	if err != nil {
		t.Fatalf("connect nbd client: %v", err)
	}
	t.Cleanup(c.close)
	return c
}

func connect(path, export string, o clientOptions) (*client, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	c := &client{
		conn: conn, in: bufio.NewReader(conn),
		ended: make(chan struct{}), pending: make(map[uint64]*pendingCall),
	}
	// A server that says nothing fails the test instead of hanging it.
	if err := conn.SetDeadline(time.Now().Add(testPatience)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := c.negotiate(export, o); err != nil {
		conn.Close()
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go c.receive()
	return c, nil
}

func (c *client) negotiate(export string, o clientOptions) error {
	if err := c.hello(handshakeFixedNewstyle | handshakeNoZeroes); err != nil {
		return err
	}
	if o.structured {
		if _, err := c.option(optStructuredReply, nil); err != nil {
			return err
		}
	}
	if o.allocation {
		if _, err := c.option(optSetMetaContext, metaData(export, contextAllocation)); err != nil {
			return err
		}
	}
	if o.exportName {
		c.sendOption(optExportName, []byte(export))
		var b [10]byte
		if _, err := io.ReadFull(c.in, b[:]); err != nil {
			return err
		}
		c.size, c.flags = int64(binary.BigEndian.Uint64(b[:])), binary.BigEndian.Uint16(b[8:])
		return nil
	}
	replies, err := c.option(optGo, goData(export, infoBlockSize))
	if err != nil {
		return err
	}
	for _, r := range replies {
		if r.reply == repInfo && binary.BigEndian.Uint16(r.data) == infoExport {
			c.size, c.flags = int64(binary.BigEndian.Uint64(r.data[2:])), binary.BigEndian.Uint16(r.data[10:])
		}
	}
	return nil
}

// hello reads the server's greeting and answers with flags.
func (c *client) hello(flags uint32) error {
	var b [18]byte
	if _, err := io.ReadFull(c.in, b[:]); err != nil {
		return err
	}
	_, err := c.conn.Write(binary.BigEndian.AppendUint32(nil, flags))
	return err
}

type replyToOption struct {
	reply optionReply
	data  []byte
}

func (c *client) sendOption(opt option, data []byte) {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, uint32(opt))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	// A failed write shows as a failed read of the reply.
	_, _ = c.conn.Write(append(b, data...))
}

// option sends an option and returns the replies before the ACK.
func (c *client) option(opt option, data []byte) ([]replyToOption, error) {
	c.sendOption(opt, data)
	var replies []replyToOption
	for {
		var head [20]byte
		if _, err := io.ReadFull(c.in, head[:]); err != nil {
			return nil, err
		}
		if m := binary.BigEndian.Uint64(head[:]); m != magicOptionReply {
			return nil, fmt.Errorf("reply magic %#x", m)
		}
		r := replyToOption{
			reply: optionReply(binary.BigEndian.Uint32(head[12:])),
			data:  make([]byte, binary.BigEndian.Uint32(head[16:])),
		}
		if _, err := io.ReadFull(c.in, r.data); err != nil {
			return nil, err
		}
		switch {
		case r.reply == repAck:
			return replies, nil
		case r.reply&(1<<31) != 0:
			return nil, optionError{r.reply, string(r.data)}
		}
		replies = append(replies, r)
	}
}

// optionError is an error reply to an option.
type optionError struct {
	reply   optionReply
	message string
}

func (e optionError) Error() string {
	return fmt.Sprintf("option refused: %#x %s", uint32(e.reply), e.message)
}

func goData(export string, infos ...uint16) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(infos)))
	for _, info := range infos {
		b = binary.BigEndian.AppendUint16(b, info)
	}
	return b
}

func metaData(export string, queries ...string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(queries)))
	for _, q := range queries {
		b = binary.BigEndian.AppendUint32(b, uint32(len(q)))
		b = append(b, q...)
	}
	return b
}

func requestHeader(r request) []byte {
	b := binary.BigEndian.AppendUint32(nil, magicRequest)
	b = binary.BigEndian.AppendUint16(b, r.flags)
	b = binary.BigEndian.AppendUint16(b, uint16(r.command))
	b = binary.BigEndian.AppendUint64(b, r.cookie)
	b = binary.BigEndian.AppendUint64(b, r.offset)
	return binary.BigEndian.AppendUint32(b, r.length)
}

// do sends one request and waits for the end of its reply.
func (c *client) do(r request, payload, into []byte) *pendingCall {
	call := &pendingCall{offset: r.offset, into: into, done: make(chan struct{})}
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		call.err = c.err
		return call
	}
	c.cookie++
	r.cookie = c.cookie
	c.pending[r.cookie] = call
	c.mu.Unlock()

	c.writing.Lock()
	message := net.Buffers{requestHeader(r), payload}
	// A failed write ends the receiver, which ends the call.
	_, _ = message.WriteTo(c.conn)
	c.writing.Unlock()
	<-call.done
	return call
}

func (c *client) request(cmd command, flags uint16, off, length int64) error {
	return c.do(request{command: cmd, flags: flags, offset: uint64(off), length: uint32(length)}, nil, nil).err
}

func (c *client) read(p []byte, off int64) error {
	call := c.do(request{command: cmdRead, offset: uint64(off), length: uint32(len(p))}, nil, p)
	if call.err == nil && call.covered != len(p) {
		return fmt.Errorf("reply described %d of %d bytes", call.covered, len(p))
	}
	return call.err
}

func (c *client) write(p []byte, off int64, flags uint16) error {
	return c.do(request{command: cmdWrite, flags: flags, offset: uint64(off), length: uint32(len(p))}, p, nil).err
}

// receive sorts replies to their calls until the connection ends.
func (c *client) receive() {
	err := c.receiveReplies()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	for cookie, call := range c.pending {
		delete(c.pending, cookie)
		call.err = err
		close(call.done)
	}
	close(c.ended)
}

func (c *client) receiveReplies() error {
	for {
		var head [simpleReplyBytes]byte
		if _, err := io.ReadFull(c.in, head[:]); err != nil {
			return err
		}
		var err error
		switch magic := binary.BigEndian.Uint32(head[:]); magic {
		case magicSimpleReply:
			err = c.simpleReply(head)
		case magicStructuredReply:
			err = c.chunk(head)
		default:
			err = fmt.Errorf("reply magic %#x", magic)
		}
		if err != nil {
			return err
		}
	}
}

// take finds the call of a cookie; last ends it for the table.
func (c *client) take(cookie uint64, last bool) (*pendingCall, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	call := c.pending[cookie]
	if call == nil {
		return nil, fmt.Errorf("reply to unknown cookie %d", cookie)
	}
	if last {
		delete(c.pending, cookie)
	}
	return call, nil
}

func (c *client) simpleReply(head [simpleReplyBytes]byte) error {
	call, err := c.take(binary.BigEndian.Uint64(head[8:]), true)
	if err != nil {
		return err
	}
	if errno := binary.BigEndian.Uint32(head[4:]); errno != 0 {
		call.err = &nbdError{errno: syscall.Errno(errno)}
	} else if _, err := io.ReadFull(c.in, call.into); err != nil {
		call.err = err
	} else {
		call.covered = len(call.into)
	}
	close(call.done)
	return nil
}

func (c *client) chunk(head [simpleReplyBytes]byte) error {
	flags, kind := binary.BigEndian.Uint16(head[4:]), binary.BigEndian.Uint16(head[6:])
	var rawLength [4]byte
	if _, err := io.ReadFull(c.in, rawLength[:]); err != nil {
		return err
	}
	data := make([]byte, binary.BigEndian.Uint32(rawLength[:]))
	if _, err := io.ReadFull(c.in, data); err != nil {
		return err
	}
	last := flags&replyFlagDone != 0
	call, err := c.take(binary.BigEndian.Uint64(head[8:]), last)
	if err != nil {
		return err
	}
	call.chunks = append(call.chunks, kind)
	err = call.apply(kind, data)
	if err != nil {
		call.err = err
	}
	if last {
		close(call.done)
	}
	return err
}

func (p *pendingCall) apply(kind uint16, data []byte) error {
	switch kind {
	case chunkNone:
	case chunkOffsetData:
		at := binary.BigEndian.Uint64(data) - p.offset
		p.covered += copy(p.into[at:], data[8:])
	case chunkOffsetHole:
		at, length := binary.BigEndian.Uint64(data)-p.offset, binary.BigEndian.Uint32(data[8:])
		clear(p.into[at : at+uint64(length)])
		p.covered += int(length)
	case chunkBlockStatus:
		for data = data[4:]; len(data) > 0; data = data[4:] {
			p.extents = append(p.extents, binary.BigEndian.Uint32(data))
		}
	case chunkError:
		n := binary.BigEndian.Uint16(data[4:])
		p.err = &nbdError{errno: syscall.Errno(binary.BigEndian.Uint32(data)), message: string(data[6 : 6+n])}
	default:
		return fmt.Errorf("chunk type %d", kind)
	}
	return nil
}

// close disconnects as the protocol wants it and waits for the receiver.
func (c *client) close() {
	c.writing.Lock()
	_, _ = c.conn.Write(requestHeader(request{command: cmdDisconnect}))
	c.writing.Unlock()
	// As long as the server may take to end; later the receiver gives up.
	_ = c.conn.SetReadDeadline(time.Now().Add(testPatience))
	<-c.ended
	c.conn.Close()
}

// errnoOf is the errno that a call failed with, or 0.
func errnoOf(err error) syscall.Errno {
	var e *nbdError
	if errors.As(err, &e) {
		return e.errno
	}
	return 0
}
