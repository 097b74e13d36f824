package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/engine/frontend/conformance"
)

// greeted connects and gets past the greeting.
func greeted(t *testing.T, path string) *client {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &client{conn: conn, in: bufio.NewReader(conn)}
	if err := c.hello(handshakeFixedNewstyle | handshakeNoZeroes); err != nil {
		t.Fatal(err)
	}
	return c
}

// wantRefused fails the test unless the option got this error reply.
func (c *client) wantRefused(t *testing.T, opt option, data []byte, want optionReply) {
	t.Helper()
	_, err := c.option(opt, data)
	var refused optionError
	if !errors.As(err, &refused) || refused.reply != want {
		t.Errorf("option %d: %v, want reply %#x", opt, err, uint32(want))
	}
}

// wantEnd fails the test unless the server closed the connection.
func (c *client) wantEnd(t *testing.T) {
	t.Helper()
	if n, err := io.Copy(io.Discard, c.in); n != 0 {
		t.Errorf("%d bytes (%v) from a connection that should have ended", n, err)
	}
}

func TestOptionErrors(t *testing.T) {
	r := serve(t, Config{}, conformance.NewMemory(1<<20))
	c := greeted(t, r.path)
	c.wantRefused(t, 99, []byte("whatever"), repErrUnsupported)
	c.wantRefused(t, 5, nil, repErrUnsupported) // STARTTLS
	c.wantRefused(t, optList, []byte{1}, repErrInvalid)
	c.wantRefused(t, optStructuredReply, []byte{1}, repErrInvalid)
	c.wantRefused(t, optGo, goData("nobody"), repErrUnknown)
	c.wantRefused(t, optInfo, []byte{0, 0}, repErrInvalid)
	c.wantRefused(t, optSetMetaContext, metaData("vol", contextAllocation), repErrInvalid) // not structured yet
	c.wantRefused(t, optInfo, make([]byte, maxOptionBytes+1), repErrTooBig)
	if _, err := c.option(optStructuredReply, nil); err != nil {
		t.Fatalf("option after refused ones: %v", err)
	}
	c.wantRefused(t, optSetMetaContext, metaData("nobody", contextAllocation), repErrUnknown)
	if _, err := c.option(optAbort, []byte("ignored")); err != nil {
		t.Errorf("abort: %v", err)
	}
	c.wantEnd(t)
}

func TestList(t *testing.T) {
	r := serve(t, Config{}, conformance.NewMemory(1<<20))
	if err := r.Add("another", conformance.NewMemory(1<<20), ""); err != nil {
		t.Fatal(err)
	}
	replies, err := greeted(t, r.path).option(optList, nil)
	if err != nil || len(replies) != 2 {
		t.Fatalf("list: %d replies, %v; want 2", len(replies), err)
	}
	for i, want := range []string{"\x00\x00\x00\x07another", "\x00\x00\x00\x03vola test volume"} {
		if got := string(replies[i].data); got != want || replies[i].reply != repServer {
			t.Errorf("reply %d is %d %q, want %d %q", i, replies[i].reply, got, repServer, want)
		}
	}
}

func TestInfo(t *testing.T) {
	dev := conformance.NewMemory(1 << 20)
	r := serve(t, Config{}, dev)
	c := greeted(t, r.path)
	find := func(export string, wants ...uint16) map[uint16]string {
		replies, err := c.option(optInfo, goData(export, wants...))
		if err != nil {
			t.Fatalf("info: %v", err)
		}
		found := make(map[uint16]string)
		for _, reply := range replies {
			found[binary.BigEndian.Uint16(reply.data)] = string(reply.data[2:])
		}
		return found
	}
	// The empty name means the only export.
	found := find("", infoName, infoDescription, infoBlockSize, 77)
	if found[infoName] != "vol" || found[infoDescription] != "a test volume" || len(found[infoBlockSize]) != 12 {
		t.Errorf("info is %v", found)
	}
	live := uint16(flagHasFlags | flagSendFlush | flagSendFUA | flagSendTrim | flagSendWriteZeroes |
		flagCanMultiConn | flagSendCache | flagSendFastZero)
	flags := func() uint16 { return binary.BigEndian.Uint16([]byte(find("vol")[infoExport])[8:]) }
	if got := flags(); got != live {
		t.Errorf("flags %#x, want %#x", got, live)
	}
	if _, err := c.option(optStructuredReply, nil); err != nil {
		t.Fatal(err)
	}
	if got := flags(); got != live|flagSendDF {
		t.Errorf("flags with structured replies %#x, want %#x", got, live|flagSendDF)
	}
	dev.SetReadOnly(true)
	view := uint16(flagHasFlags | flagReadOnly | flagSendFlush | flagSendFUA | flagCanMultiConn | flagSendCache | flagSendDF)
	if got := flags(); got != view {
		t.Errorf("flags of a view %#x, want %#x", got, view)
	}
	if err := r.Add("second", dev, ""); err != nil {
		t.Fatal(err)
	}
	c.wantRefused(t, optInfo, goData(""), repErrUnknown) // no longer clear which
}

func TestMetaContexts(t *testing.T) {
	r := serve(t, Config{}, conformance.NewMemory(1<<20))
	c := greeted(t, r.path)
	if _, err := c.option(optStructuredReply, nil); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		opt     option
		queries []string
		want    int
	}{
		{optListMetaContext, nil, 1},
		{optListMetaContext, []string{"base:"}, 1},
		{optListMetaContext, []string{"qemu:", "x-other:thing"}, 0},
		{optSetMetaContext, nil, 0},
		{optSetMetaContext, []string{"base:"}, 0},
		{optSetMetaContext, []string{"base:unknown", contextAllocation, contextAllocation}, 1},
	}
	for _, m := range cases {
		replies, err := c.option(m.opt, metaData("vol", m.queries...))
		if err != nil || len(replies) != m.want {
			t.Errorf("option %d %q: %d contexts, %v; want %d", m.opt, m.queries, len(replies), err, m.want)
		}
	}
}

// TestContextIsForItsExport: a context selected for one export does not hold
// for another, nor does one that was deselected.
func TestContextIsForItsExport(t *testing.T) {
	r := serve(t, Config{}, conformance.NewMemory(1<<20))
	if err := r.Add("other", conformance.NewMemory(1<<20), ""); err != nil {
		t.Fatal(err)
	}
	for name, queries := range map[string][]byte{
		"selected for another export": metaData("other", contextAllocation),
		"deselected":                  metaData("vol"),
	} {
		c := greeted(t, r.path)
		if _, err := c.option(optStructuredReply, nil); err != nil {
			t.Fatal(err)
		}
		for _, data := range [][]byte{metaData("vol", contextAllocation), queries} {
			if _, err := c.option(optSetMetaContext, data); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.option(optGo, goData("vol")); err != nil {
			t.Fatal(err)
		}
		c.pending, c.ended = make(map[uint64]*pendingCall), make(chan struct{})
		go c.receive()
		if errno := errnoOf(c.request(cmdBlockStatus, 0, 0, 4096)); errno != 22 {
			t.Errorf("%s: block status gave errno %d, want EINVAL", name, errno)
		}
		c.close()
	}
}

func TestExportNamePadding(t *testing.T) {
	r := serve(t, Config{}, conformance.NewMemory(1<<20))
	for flags, want := range map[uint32]int{
		handshakeFixedNewstyle:                     10 + exportNameZeroes,
		handshakeFixedNewstyle | handshakeNoZeroes: 10,
	} {
		conn, err := net.Dial("unix", r.path)
		if err != nil {
			t.Fatal(err)
		}
		c := &client{conn: conn, in: bufio.NewReader(conn)}
		if err := c.hello(flags); err != nil {
			t.Fatal(err)
		}
		c.sendOption(optExportName, []byte("vol"))
		if _, err := conn.Write(requestHeader(request{command: cmdDisconnect})); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(c.in); err != nil || len(answer) != want {
			t.Errorf("client flags %#x: %d bytes, %v; want %d", flags, len(answer), err, want)
		}
		conn.Close()
	}
	c := greeted(t, r.path)
	c.sendOption(optExportName, []byte("nobody"))
	c.wantEnd(t)
}

func TestAddChecksNames(t *testing.T) {
	r := serve(t, Config{}, conformance.NewMemory(1<<20))
	dev := conformance.NewMemory(1 << 20)
	for _, name := range []string{strings.Repeat("x", maxNameBytes+1), "nul\x00", "\xff"} {
		if err := r.Add(name, dev, ""); !errors.Is(err, ErrBadName) {
			t.Errorf("Add(%q): %v, want ErrBadName", name, err)
		}
		if err := r.Add("fine", dev, name); !errors.Is(err, ErrBadName) {
			t.Errorf("Add with description %q: %v, want ErrBadName", name, err)
		}
	}
	if err := r.Add("vol", dev, ""); !errors.Is(err, ErrExportExists) {
		t.Errorf("Add of a name in use: %v, want ErrExportExists", err)
	}
}
