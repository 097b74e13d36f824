package nbd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/engine/frontend/conformance"
)

// disconnects collects why connections ended. What nobody waits for is
// dropped once there is much of it: the hook must not block.
func disconnects() (Config, chan error) {
	ended := make(chan error, 64)
	return Config{OnDisconnect: func(_ string, reason error) {
		select {
		case ended <- reason:
		default:
		}
	}}, ended
}

// TestGarbage: whatever bytes come, in whichever phase, the server survives
// and serves the next client.
func TestGarbage(t *testing.T) {
	r := serve(t, Config{}, conformance.NewMemory(1<<20))
	random := rand.New(rand.NewPCG(5, 5))
	for round := range 60 {
		var conn net.Conn
		switch round % 3 {
		case 0:
			var err error
			if conn, err = net.Dial("unix", r.path); err != nil {
				t.Fatal(err)
			}
		case 1:
			conn = greeted(t, r.path).conn
		case 2:
			c := greeted(t, r.path)
			if _, err := c.option(optGo, goData("vol")); err != nil {
				t.Fatal(err)
			}
			conn = c.conn
		}
		garbage := make([]byte, 200+random.IntN(4000))
		for i := range garbage {
			garbage[i] = byte(random.Uint32())
		}
		// The server may hang up at any byte of it.
		_, _ = conn.Write(garbage)
		_ = conn.(*net.UnixConn).CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}
	c := structured(t, r)
	if err := c.request(cmdFlush, 0, 0, 0); err != nil {
		t.Errorf("a good client after the garbage: %v", err)
	}
}

func TestProtocolViolationsEndTheConnection(t *testing.T) {
	config, ended := disconnects()
	r := serve(t, config, conformance.NewMemory(1<<20))
	violations := map[string]func(c *client){
		"option magic": func(c *client) { _, _ = c.conn.Write(make([]byte, optionHeaderBytes)) },
		"long export name": func(c *client) {
			c.sendOption(optExportName, make([]byte, maxOptionBytes+1))
		},
		"endless options": func(c *client) {
			for range maxOptions {
				_, _ = c.option(optList, nil)
			}
		},
		"request magic": func(c *client) {
			_, _ = c.option(optGo, goData("vol"))
			_, _ = c.conn.Write(make([]byte, requestBytes))
		},
	}
	for name, violate := range violations {
		c := greeted(t, r.path)
		violate(c)
		c.wantEnd(t)
		if reason := soon(t, ended, name); !errors.Is(reason, ErrProtocol) {
			t.Errorf("%s: ended with %v, want ErrProtocol", name, reason)
		}
	}
	for _, flags := range []uint32{0, handshakeNoZeroes, 1<<2 | handshakeFixedNewstyle} {
		conn, err := net.Dial("unix", r.path)
		if err != nil {
			t.Fatal(err)
		}
		c := &client{conn: conn, in: bufio.NewReader(conn)}
		if err := c.hello(flags); err != nil {
			t.Fatal(err)
		}
		c.wantEnd(t)
		conn.Close()
		if reason := soon(t, ended, "client flags"); !errors.Is(reason, ErrProtocol) {
			t.Errorf("client flags %#x: ended with %v, want ErrProtocol", flags, reason)
		}
	}
}

// TestHandshakeTimeout: a client that says nothing is not kept.
func TestHandshakeTimeout(t *testing.T) {
	config, ended := disconnects()
	config.HandshakeTimeout = 20 * time.Millisecond
	r := serve(t, config, conformance.NewMemory(1<<20))
	wantIgnored(t, r.path)
	if reason := soon(t, ended, "silent client"); !errors.Is(reason, os.ErrDeadlineExceeded) {
		t.Errorf("ended with %v, want a deadline", reason)
	}
	// One that got through may be as silent as it likes. On a busy machine it may not get
	// through at once.
	quiet, err := connect(r.path, "vol", clientOptions{})
	for deadline := time.Now().Add(testPatience); err != nil && time.Now().Before(deadline); {
		quiet, err = connect(r.path, "vol", clientOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer quiet.close()
	wantIgnored(t, r.path) // a full timeout passes meanwhile
	if err := quiet.request(cmdFlush, 0, 0, 0); err != nil {
		t.Errorf("idle client after the handshake timeout: %v", err)
	}
}

// wantIgnored connects, says nothing, and fails the test unless the server ends that.
func wantIgnored(t *testing.T, path string) {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(testPatience)); err != nil {
		t.Fatal(err)
	}
	const greeting = 18
	if n, err := io.Copy(io.Discard, conn); n != greeting || err != nil {
		t.Errorf("%d bytes, %v from a connection that should have ended, want the greeting's %d", n, err, greeting)
	}
}

// TestTooManyConnections: clients beyond the bound are turned away, however
// many come, and one that has seen its connection end has made room.
func TestTooManyConnections(t *testing.T) {
	config, ended := disconnects()
	config.MaxConnections = 2
	r := serve(t, config, conformance.NewMemory(1<<20))
	first := structured(t, r)
	structured(t, r)
	for range 2 * cap(ended) {
		_, err := connect(r.path, "vol", clientOptions{})
		if err == nil {
			t.Fatal("a third client got in, with MaxConnections 2")
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a third client was left waiting: %v", err)
		}
	}
	if reason := soon(t, ended, "third client"); !errors.Is(reason, ErrTooManyConnections) {
		t.Errorf("turned away with %v, want ErrTooManyConnections", reason)
	}
	first.close()
	c, err := connect(r.path, "vol", clientOptions{})
	if err != nil {
		t.Fatalf("no place after one client left: %v", err)
	}
	c.close()
}

// TestClientThatDoesNotRead floods the server with reads and takes no reply:
// memory stays bounded, other clients are served, and Serve ends.
func TestClientThatDoesNotRead(t *testing.T) {
	dev := conformance.NewMemory(64 << 20)
	if err := dev.WriteAt(t.Context(), bytes.Repeat([]byte{1}, 64<<20), 0, false); err != nil {
		t.Fatal(err)
	}
	r := serve(t, Config{DrainTimeout: 50 * time.Millisecond}, dev)
	const floods, readBytes = 3, 4 << 20
	for range floods {
		c := greeted(t, r.path)
		if _, err := c.option(optGo, goData("vol")); err != nil {
			t.Fatal(err)
		}
		// 2 GiB worth of reads in one packet.
		flood := bytes.Repeat(requestHeader(request{command: cmdRead, length: readBytes}), 512)
		if _, err := c.conn.Write(flood); err != nil {
			t.Fatal(err)
		}
	}
	// No reply can be sent whole, so no memory comes back: each client gets
	// as many reads as its memory holds, and never another one.
	const wantReads = floods * connectionBytes / readBytes
	for deadline := time.Now().Add(testPatience); dev.Counts().Reads < wantReads; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d reads reached the device, want %d", dev.Counts().Reads, wantReads)
		}
	}
	good := structured(t, r)
	if err := good.request(cmdFlush, 0, 0, 0); err != nil {
		t.Errorf("another client beside them: %v", err)
	}
	good.close()
	r.stop(t)
	if reads := dev.Counts().Reads; reads != wantReads {
		t.Errorf("%d reads of 4 MiB reached the device for clients that take nothing, want %d", reads, wantReads)
	}
}

// TestClientThatCannotBeAnswered: once a reply cannot be written the server
// hangs up, though the client goes on sending and never disconnects.
func TestClientThatCannotBeAnswered(t *testing.T) {
	config, ended := disconnects()
	r := serve(t, config, conformance.NewMemory(1<<20))
	c := greeted(t, r.path)
	if _, err := c.option(optGo, goData("vol")); err != nil {
		t.Fatal(err)
	}
	if err := c.conn.(*net.UnixConn).CloseRead(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.conn.Write(requestHeader(request{command: cmdFlush})); err != nil {
		t.Fatal(err)
	}
	if reason := soon(t, ended, "unanswerable client"); !errors.Is(reason, syscall.EPIPE) {
		t.Errorf("ended with %v, want EPIPE", reason)
	}
}

// TestHalfRequest: a client that dies in the middle of a payload changes
// nothing.
func TestHalfRequest(t *testing.T) {
	config, ended := disconnects()
	dev := conformance.NewMemory(64 << 20)
	r := serve(t, config, dev)
	c := greeted(t, r.path)
	if _, err := c.option(optGo, goData("vol")); err != nil {
		t.Fatal(err)
	}
	head := requestHeader(request{command: cmdWrite, length: maxRequestBytes})
	if _, err := c.conn.Write(append(head, bytes.Repeat([]byte{1}, 1<<20)...)); err != nil {
		t.Fatal(err)
	}
	c.conn.Close()
	if reason := soon(t, ended, "half a request"); !errors.Is(reason, io.ErrUnexpectedEOF) {
		t.Errorf("ended with %v, want an unexpected end", reason)
	}
	if n := dev.Counts().Writes; n != 0 {
		t.Errorf("%d writes reached the device from half a request", n)
	}
}

// TestRemoveDrains: a request that is at the device when its export is removed
// is answered; the next one is not taken.
func TestRemoveDrains(t *testing.T) {
	dev := conformance.NewMemory(1 << 20)
	r := serve(t, Config{}, dev)
	c := structured(t, r)
	if vol, none := r.Clients("vol"), r.Clients("none"); vol != 1 || none != 0 {
		t.Errorf("%d clients, and %d of an export that is not there, want 1 and 0", vol, none)
	}
	gate := dev.Block(conformance.Match{Op: conformance.OpWrite}, 1)
	t.Cleanup(gate.Release)
	written := make(chan error, 1)
	go func() { written <- c.write(make([]byte, 4096), 0, 0) }()
	soon(t, gate.Entered(), "write")

	removed := make(chan error, 1)
	go func() { removed <- r.Remove(context.Background(), "vol") }()
	for r.exports.find("vol") != nil {
		runtime.Gosched()
	}
	if _, err := connect(r.path, "vol", clientOptions{}); err == nil {
		t.Error("an export that is being removed took a client")
	}
	select {
	case err := <-removed:
		t.Fatalf("Remove returned while a request was at the device: %v", err)
	default:
	}
	gate.Release()
	if err := soon(t, written, "write in flight"); err != nil {
		t.Errorf("write in flight while the export was removed: %v", err)
	}
	if err := soon(t, removed, "Remove"); err != nil {
		t.Errorf("Remove: %v", err)
	}
	if err := c.request(cmdFlush, 0, 0, 0); err == nil {
		t.Error("a removed export answered")
	}
	if err := r.Remove(context.Background(), "vol"); !errors.Is(err, ErrNoExport) {
		t.Errorf("Remove of what is gone: %v, want ErrNoExport", err)
	}
	if err := r.Add("vol", dev, ""); err != nil {
		t.Errorf("Add of a name that was removed: %v", err)
	}
	if n := r.Clients("vol"); n != 0 {
		t.Errorf("%d clients of a new export", n)
	}
}

// TestRemoveGivesUp: when its context ends, Remove cancels what hangs.
func TestRemoveGivesUp(t *testing.T) {
	dev := conformance.NewMemory(1 << 20)
	r := serve(t, Config{}, dev)
	c := structured(t, r)
	gate := dev.Block(conformance.Match{Op: conformance.OpFlush}, 1)
	t.Cleanup(gate.Release)
	flushed := make(chan error, 1)
	go func() { flushed <- c.request(cmdFlush, 0, 0, 0) }()
	soon(t, gate.Entered(), "flush")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Remove(ctx, "vol"); err != nil {
		t.Errorf("Remove: %v", err)
	}
	if err := soon(t, flushed, "flush"); err == nil {
		t.Error("a cancelled flush was acknowledged")
	}
}

// TestRemoveCutsOffWhoTakesNoAnswers: a client that is stopped, or whose machine is gone,
// must not keep a store from being closed. Nothing else ends its connection.
func TestRemoveCutsOffWhoTakesNoAnswers(t *testing.T) {
	dev := conformance.NewMemory(8 << 20)
	if err := dev.WriteAt(t.Context(), bytes.Repeat([]byte{1}, 8<<20), 0, false); err != nil {
		t.Fatal(err)
	}
	r := serve(t, Config{DrainTimeout: 50 * time.Millisecond}, dev)
	c := greeted(t, r.path)
	if _, err := c.option(optGo, goData("vol")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // more than a socket takes
		if _, err := c.conn.Write(requestHeader(request{command: cmdRead, length: 8 << 20})); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(testPatience); dev.Counts().Reads < 2; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d reads reached the device, want 2", dev.Counts().Reads)
		}
	}
	removed := make(chan error, 1)
	go func() { removed <- r.Remove(context.Background(), "vol") }()
	if err := soon(t, removed, "Remove"); err != nil {
		t.Errorf("Remove: %v", err)
	}
}

// TestServeEndsWithHungDevice: Serve returns though a call hangs until it is
// cancelled.
func TestServeEndsWithHungDevice(t *testing.T) {
	dev := conformance.NewMemory(1 << 20)
	r := serve(t, Config{DrainTimeout: 10 * time.Millisecond}, dev)
	gate := dev.Block(conformance.Match{Op: conformance.OpRead}, 8)
	t.Cleanup(gate.Release)
	c := structured(t, r)
	var reads sync.WaitGroup
	errs := make(chan error, 8)
	for range 8 {
		reads.Go(func() { errs <- c.read(make([]byte, 4096), 0) })
		soon(t, gate.Entered(), "read")
	}
	r.stop(t)
	reads.Wait()
	for range 8 {
		if err := <-errs; err == nil {
			t.Error("a read that the device never answered succeeded")
		}
	}
}

// TestServeReportsItsListener: a listener that somebody else closes is an
// error, unlike the end of the context.
func TestServeReportsItsListener(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", fmt.Sprintf("%s/s", t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := s.Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve on a closed listener: %v, want net.ErrClosed", err)
	}
}
