package harness

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
)

// NBD is a client of one request at a time, which uses the least that the
// protocol allows; what writes is in nbdwrite.go. See
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
type NBD struct {
	SizeBytes int64

	conn   net.Conn
	in     *bufio.Reader
	cookie uint64
}

// Numbers of the protocol that the client needs.
const (
	nbdMagic         = 0x4e42444d41474943
	nbdOptionMagic   = 0x49484156454f5054
	nbdReplyMagic    = 0x3e889045565a9
	nbdRequestMagic  = 0x25609513
	nbdSimpleMagic   = 0x67446698
	nbdClientFlags   = 0x3 // fixed newstyle, no zeroes
	nbdOptionGo      = 7
	nbdReplyAck      = 1
	nbdReplyInfo     = 3
	nbdInfoExport    = 0
	nbdCommandRead   = 0
	nbdCommandDisc   = 2
	maxNBDReplyBytes = 64 << 10
)

// DialNBD opens an export by its URI, nbd+unix or nbd.
func DialNBD(uri string) (*NBD, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, fmt.Errorf("dial NBD: %w", err)
	}
	network, address := "unix", u.Query().Get("socket")
	if u.Scheme == "nbd" {
		network, address = "tcp", u.Host
	}
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, fmt.Errorf("dial NBD: %w", err)
	}
	return OpenNBD(conn, strings.TrimPrefix(u.Path, "/"))
}

// OpenNBD opens an export of the server at the other end of conn, which it
// closes, also when it fails.
func OpenNBD(conn net.Conn, export string) (*NBD, error) {
	c := &NBD{conn: conn, in: bufio.NewReader(conn)}
	if err := c.negotiate(export); err != nil {
		return nil, errors.Join(fmt.Errorf("open export %s: %w", export, err), conn.Close())
	}
	return c, nil
}

func (c *NBD) negotiate(export string) error {
	var hello struct {
		Magic, OptionMagic uint64
		Flags              uint16
	}
	if err := binary.Read(c.in, binary.BigEndian, &hello); err != nil {
		return err
	}
	if hello.Magic != nbdMagic || hello.OptionMagic != nbdOptionMagic {
		return errors.New("the server does not speak newstyle NBD")
	}
	b := binary.BigEndian.AppendUint32(nil, nbdClientFlags)
	b = binary.BigEndian.AppendUint64(b, nbdOptionMagic)
	b = binary.BigEndian.AppendUint32(b, nbdOptionGo)
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(export)+2))
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint16(b, 0) // no information requests
	if _, err := c.conn.Write(b); err != nil {
		return err
	}
	for {
		done, err := c.optionReply()
		if done || err != nil {
			return err
		}
	}
}

// optionReply reads one reply to GO; done with the last.
func (c *NBD) optionReply() (done bool, err error) {
	var reply struct {
		Magic                uint64
		Option, Type, Length uint32
	}
	if err := binary.Read(c.in, binary.BigEndian, &reply); err != nil {
		return false, err
	}
	if reply.Magic != nbdReplyMagic || reply.Length > maxNBDReplyBytes {
		return false, errors.New("bad reply to an option")
	}
	data := make([]byte, reply.Length)
	if _, err := io.ReadFull(c.in, data); err != nil {
		return false, err
	}
	switch {
	case reply.Type == nbdReplyAck:
		return true, nil
	case reply.Type != nbdReplyInfo:
		return false, fmt.Errorf("the server refused: %#x %s", reply.Type, data)
	case len(data) >= 10 && binary.BigEndian.Uint16(data) == nbdInfoExport:
		c.SizeBytes = int64(binary.BigEndian.Uint64(data[2:]))
	}
	return false, nil
}

// ReadAt implements io.ReaderAt; off and the length are multiples of 512.
func (c *NBD) ReadAt(p []byte, off int64) (int, error) {
	if err := c.do(nbdCommandRead, off, len(p), nil); err != nil {
		return 0, fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
	}
	return io.ReadFull(c.in, p)
}

// do sends a request, with what it writes, and reads the head of its reply.
func (c *NBD) do(command uint16, off int64, length int, payload []byte) error {
	c.cookie++
	if err := c.request(command, off, length); err != nil {
		return err
	}
	if _, err := c.conn.Write(payload); err != nil {
		return err
	}
	var reply struct {
		Magic, Error uint32
		Cookie       uint64
	}
	if err := binary.Read(c.in, binary.BigEndian, &reply); err != nil {
		return err
	}
	if reply.Magic != nbdSimpleMagic || reply.Cookie != c.cookie {
		return errors.New("bad reply")
	}
	if reply.Error != 0 {
		return fmt.Errorf("NBD error %d", reply.Error)
	}
	return nil
}

func (c *NBD) request(command uint16, off int64, length int) error {
	b := binary.BigEndian.AppendUint32(nil, nbdRequestMagic)
	b = binary.BigEndian.AppendUint16(b, 0) // flags
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, c.cookie)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	_, err := c.conn.Write(b)
	return err
}

// Close says goodbye and closes the connection.
func (c *NBD) Close() error {
	return errors.Join(c.request(nbdCommandDisc, 0, 0), c.conn.Close())
}
