package fuse

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeKernel is the other side of a connection: a socket that keeps messages
// apart stands in for /dev/fuse, so that these tests need no privilege.
type fakeKernel struct {
	*testing.T
	conn   *os.File // the server's side
	side   *os.File // the kernel's side
	result chan error
	cancel context.CancelFunc
	reply  []byte // what receive reads into
}

var testInit = InitState{
	Major: 7, Minor: 40, MaxWriteBytes: maxWriteBytes, Flags: flagHasResend | flagInitExt, MaxBackground: maxBackground,
}

func newFakeKernel(t *testing.T) *fakeKernel {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds { // room for a WRITE of 1 MiB
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.SetNonblock(fds[1], true); err != nil { // so that deadlines work
		t.Fatal(err)
	}
	k := &fakeKernel{T: t, conn: os.NewFile(uintptr(fds[0]), "conn"), side: os.NewFile(uintptr(fds[1]), "kernel"), reply: make([]byte, 2<<20)}
	t.Cleanup(func() { _ = k.conn.Close(); _ = k.side.Close() })
	return k
}

// serve runs Serve over dev until the test ends.
func serve(t *testing.T, dev engine.Device, opts Options) *fakeKernel {
	t.Helper()
	k := newFakeKernel(t)
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel, k.result = cancel, make(chan error, 1)
	go func() { k.result <- Serve(ctx, Session{Conn: k.conn, Init: testInit}, dev, opts) }()
	t.Cleanup(func() {
		cancel()
		_ = k.end()
	})
	return k
}

// end waits for Serve to return.
func (k *fakeKernel) end() error {
	k.Helper()
	err := <-k.result
	k.result <- err // for the next caller
	return err
}

func (k *fakeKernel) send(msg []byte) {
	k.Helper()
	if _, err := k.side.Write(msg); err != nil {
		k.Fatal(err)
	}
}

// answer is a decoded reply.
type answer struct {
	unique uint64
	errno  syscall.Errno
	body   []byte
}

// receive waits for the next reply, however long a busy machine takes over it: one
// that never comes ends at the time limit of all tests, with a stack of everybody. One
// goroutine at a time calls it.
func (k *fakeKernel) receive() answer {
	k.Helper()
	p := k.reply
	n, err := k.side.Read(p)
	if err != nil {
		k.Fatalf("no reply: %v", err)
	}
	if n < outHeaderBytes || int(binary.LittleEndian.Uint32(p)) != n {
		k.Fatalf("reply of %d bytes says % x", n, p[:min(n, outHeaderBytes)])
	}
	return answer{
		unique: binary.LittleEndian.Uint64(p[8:]),
		errno:  syscall.Errno(-int32(binary.LittleEndian.Uint32(p[4:]))),
		body:   bytes.Clone(p[outHeaderBytes:n]),
	}
}

// ask sends one request and returns the reply to it.
func (k *fakeKernel) ask(op opcode, node uint64, body ...any) answer {
	k.Helper()
	const unique = 1<<63 | 1234 // a resent request: the bit must come back
	k.send(message(op, unique, node, body...))
	a := k.receive()
	if a.unique != unique {
		k.Fatalf("opcode %d answered as %#x, want %#x", op, a.unique, uint64(unique))
	}
	return a
}

// stubDevice keeps its content in a slice, and lets a test fail or hold up
// calls.
type stubDevice struct {
	mu       sync.Mutex
	data     []byte
	readOnly bool
	failure  error // of every call
	synced   int   // FUA writes and flushes

	hold chan struct{} // calls wait until it is closed, if not nil
	held chan struct{} // is sent to before waiting
}

func newStub(size int) *stubDevice { return &stubDevice{data: make([]byte, size)} }

func (d *stubDevice) syncs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.synced
}

func (d *stubDevice) enter() error {
	if d.hold != nil {
		d.held <- struct{}{}
		<-d.hold
	}
	return d.failure
}

func (d *stubDevice) SizeBytes() int64 { return int64(len(d.data)) }
func (d *stubDevice) ReadOnly() bool   { return d.readOnly }

func (d *stubDevice) ReadAt(_ context.Context, p []byte, off int64) error {
	if err := d.enter(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(p, d.data[off:])
	return nil
}

func (d *stubDevice) WriteAt(_ context.Context, p []byte, off int64, fua bool) error {
	if err := d.enter(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if fua {
		d.synced++
	}
	copy(d.data[off:], p)
	return nil
}

func (d *stubDevice) Discard(_ context.Context, off, length int64) error {
	if err := d.enter(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.data[off : off+length])
	return nil
}

func (d *stubDevice) WriteZeroes(ctx context.Context, off, length int64, _ bool) error {
	return d.Discard(ctx, off, length)
}

func (d *stubDevice) Flush(context.Context) error {
	if err := d.enter(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.synced++
	return nil
}

func (d *stubDevice) BlockStatus(context.Context, int64, int64, int) ([]engine.BlockRange, error) {
	return nil, nil // no frontend of this package asks
}

func TestData(t *testing.T) {
	dev := newStub(4 << 20)
	k := serve(t, dev, Options{})
	want := bytes.Repeat([]byte("lockstep"), maxWriteBytes/8)
	a := k.ask(opWrite, nodeFile, kernelRead{Offset: 512, Size: maxWriteBytes}, string(want))
	if a.errno != 0 || len(a.body) != writeOutBytes || binary.LittleEndian.Uint32(a.body) != maxWriteBytes {
		t.Fatalf("write: %v, % x", a.errno, a.body)
	}
	if a := k.ask(opRead, nodeFile, kernelRead{Offset: 512, Size: maxWriteBytes}); a.errno != 0 || !bytes.Equal(a.body, want) {
		t.Fatalf("read back: %v, %d bytes", a.errno, len(a.body))
	}
	if a := k.ask(opRead, nodeFile, kernelRead{Offset: 4<<20 - 512, Size: 4096}); a.errno != 0 || len(a.body) != 512 {
		t.Errorf("read over the end: %v, %d bytes, want 512", a.errno, len(a.body))
	}
	if a := k.ask(opRead, nodeFile, kernelRead{Offset: 8 << 20, Size: 4096}); a.errno != 0 || len(a.body) != 0 {
		t.Errorf("read behind the end: %v, %d bytes, want none", a.errno, len(a.body))
	}
	if a := k.ask(opFallocate, nodeFile, kernelFallocate{Offset: 512, Length: 512, Mode: 3}); a.errno != 0 {
		t.Errorf("discard: %v", a.errno)
	}
	if a := k.ask(opFallocate, nodeFile, kernelFallocate{Offset: 1024, Length: 512, Mode: 0x11}); a.errno != 0 {
		t.Errorf("write zeroes: %v", a.errno)
	}
	clear(want[:1024])
	if a := k.ask(opRead, nodeFile, kernelRead{Offset: 512, Size: 4096}); !bytes.Equal(a.body, want[:4096]) {
		t.Error("discard and write zeroes did not clear what they should")
	}
	if k.ask(opFsync, nodeFile, uint64(1), uint64(0)); dev.syncs() != 1 {
		t.Error("fsync did not flush")
	}
	if k.ask(opWrite, nodeFile, kernelRead{Size: 512, Flags: unix.O_DSYNC}, string(want[:512])); dev.syncs() != 2 {
		t.Error("a synchronous write was not forced")
	}
}

func TestRefusals(t *testing.T) {
	sector := string(make([]byte, 512))
	cases := map[string]struct {
		op   opcode
		node uint64
		body []any
		want syscall.Errno
	}{
		"write beyond end":       {opWrite, nodeFile, []any{kernelRead{Offset: 1 << 20, Size: 512}, sector}, unix.EIO},
		"write at huge offset":   {opWrite, nodeFile, []any{kernelRead{Offset: 1<<63 - 512, Size: 512}, sector}, unix.EINVAL},
		"write at negative":      {opWrite, nodeFile, []any{kernelRead{Offset: 1 << 63, Size: 512}, sector}, unix.EINVAL},
		"write unaligned":        {opWrite, nodeFile, []any{kernelRead{Offset: 1, Size: 512}, sector}, unix.EINVAL},
		"write odd length":       {opWrite, nodeFile, []any{kernelRead{Size: 3}, "abc"}, unix.EINVAL},
		"read unaligned":         {opRead, nodeFile, []any{kernelRead{Offset: 7, Size: 512}}, unix.EINVAL},
		"read at negative":       {opRead, nodeFile, []any{kernelRead{Offset: 1 << 63, Size: 512}}, unix.EINVAL},
		"read of 2 MiB":          {opRead, nodeFile, []any{kernelRead{Size: 2 << 20}}, unix.EINVAL},
		"plain fallocate":        {opFallocate, nodeFile, []any{kernelFallocate{Length: 512}}, unix.EOPNOTSUPP},
		"collapse range":         {opFallocate, nodeFile, []any{kernelFallocate{Length: 512, Mode: 8}}, unix.EOPNOTSUPP},
		"discard beyond end":     {opFallocate, nodeFile, []any{kernelFallocate{Offset: 1 << 20, Length: 512, Mode: 3}}, unix.EIO},
		"discard overflowing":    {opFallocate, nodeFile, []any{kernelFallocate{Offset: 512, Length: 1<<63 - 512, Mode: 3}}, unix.EINVAL},
		"truncate":               {opSetattr, nodeFile, []any{kernelSetattr{Valid: setattrSize, Size: 512}}, unix.EPERM},
		"lookup of another name": {opLookup, nodeRoot, []any{"devicf\x00"}, unix.ENOENT},
		"lookup in the file":     {opLookup, nodeFile, []any{FileName + "\x00"}, unix.ENOENT},
		"unknown opcode":         {opcode(4711), nodeFile, nil, unix.ENOSYS},
		"interrupt":              {opInterrupt, 0, []any{uint64(8)}, unix.ENOSYS},
	}
	k := serve(t, newStub(1<<20), Options{})
	for name, c := range cases {
		if a := k.ask(c.op, c.node, c.body...); a.errno != c.want || len(a.body) != 0 {
			t.Errorf("%s: %v with %d bytes, want %v", name, a.errno, len(a.body), c.want)
		}
	}
}

func TestErrorsOfTheDevice(t *testing.T) {
	cases := map[error]syscall.Errno{
		engine.ErrNoSpace:    unix.ENOSPC,
		engine.ErrReadOnly:   unix.EROFS,
		engine.ErrOutOfRange: unix.EINVAL,
		engine.ErrUnaligned:  unix.EINVAL,
		engine.ErrClosed:     unix.EIO,
		errors.Join(engine.ErrPoisoned, engine.ErrNoSpace): unix.EIO,
		errors.New("a disk fell over"):                     unix.EIO,
	}
	for failure, want := range cases {
		dev := newStub(1 << 20)
		dev.failure = failure
		k := serve(t, dev, Options{})
		for name, a := range map[string]answer{
			"write":   k.ask(opWrite, nodeFile, kernelRead{Size: 512}, string(make([]byte, 512))),
			"read":    k.ask(opRead, nodeFile, kernelRead{Size: 512}),
			"fsync":   k.ask(opFsync, nodeFile, uint64(1), uint64(0)),
			"discard": k.ask(opFallocate, nodeFile, kernelFallocate{Length: 512, Mode: 3}),
		} {
			if a.errno != want || len(a.body) != 0 {
				t.Errorf("%s with %q: %v, want %v", name, failure, a.errno, want)
			}
		}
	}
}

// TestHeldUpCallsDelayNobody fills every reader with calls that the device does
// not finish. A GETATTR must get through, whatever kind they are.
func TestHeldUpCallsDelayNobody(t *testing.T) {
	requests := map[string][]byte{
		"write":   message(opWrite, 2, nodeFile, kernelRead{Size: 512}, string(make([]byte, 512))),
		"read":    message(opRead, 2, nodeFile, kernelRead{Size: 512}),
		"long":    message(opRead, 2, nodeFile, kernelRead{Size: maxWriteBytes}),
		"fsync":   message(opFsync, 2, nodeFile, uint64(1), uint64(0)),
		"discard": message(opFallocate, 2, nodeFile, kernelFallocate{Length: 512, Mode: 3}),
	}
	for name, request := range requests {
		for _, readers := range []int{1, 2, 3} {
			dev := newStub(2 << 20)
			dev.hold, dev.held = make(chan struct{}), make(chan struct{}, 64)
			k := serve(t, dev, Options{Readers: readers, Receivers: 8})
			const calls = 7 // one less than receivers
			for range calls {
				k.send(request)
			}
			for range calls {
				select {
				case <-dev.held:
				case <-time.After(10 * time.Second):
					close(dev.hold)
					t.Fatalf("%s with %d readers: not all requests reached the device", name, readers)
				}
			}
			k.send(message(opGetattr, 99, nodeFile, uint64(0), uint64(0)))
			if a := k.receive(); a.unique != 99 {
				t.Errorf("%s with %d readers: request %d was answered first", name, readers, a.unique)
			}
			close(dev.hold)
			for range calls {
				if a := k.receive(); a.unique != 2 || a.errno != 0 {
					t.Errorf("%s with %d readers: reply to %d: %v", name, readers, a.unique, a.errno)
				}
			}
			// The surplus readers must have retired properly.
			for range 20 {
				k.ask(opWrite, nodeFile, kernelRead{Size: 512}, string(make([]byte, 512)))
			}
		}
	}
}

// TestStopFinishesWhatWasRead cancels while calls are in the device.
func TestStopFinishesWhatWasRead(t *testing.T) {
	dev := newStub(1 << 20)
	dev.hold, dev.held = make(chan struct{}), make(chan struct{}, 64)
	k := serve(t, dev, Options{})
	for range 3 {
		k.send(message(opRead, 2, nodeFile, kernelRead{Size: 512}))
		<-dev.held
	}
	k.cancel()
	select {
	case err := <-k.result:
		t.Fatalf("Serve returned (%v) before its requests were answered", err)
	default:
	}
	close(dev.hold)
	if err := k.end(); err != nil {
		t.Fatalf("Serve: %v", err)
	}
	for range 3 {
		if a := k.receive(); a.errno != 0 || len(a.body) != 512 {
			t.Errorf("reply: %v, %d bytes", a.errno, len(a.body))
		}
	}
}

func TestServeEnds(t *testing.T) {
	t.Run("unmounted", func(t *testing.T) {
		k := serve(t, newStub(1<<20), Options{})
		_ = k.side.Close()
		if err := k.end(); !errors.Is(err, ErrUnmounted) {
			t.Errorf("Serve: %v, want ErrUnmounted", err)
		}
	})
	t.Run("malformed message", func(t *testing.T) {
		k := serve(t, newStub(1<<20), Options{})
		k.send([]byte("this is no request of the kernel's, much too long for its header"))
		if err := k.end(); !errors.Is(err, ErrProtocol) {
			t.Errorf("Serve: %v, want ErrProtocol", err)
		}
	})
	t.Run("cancelled while idle", func(t *testing.T) {
		k := serve(t, newStub(1<<20), Options{})
		k.ask(opGetattr, nodeRoot, uint64(0), uint64(0))
		k.cancel()
		if err := k.end(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestServeRefuses(t *testing.T) {
	ctx := context.Background()
	k := newFakeKernel(t)
	old := testInit
	old.Flags = 0
	ring := testInit
	ring.Flags |= flagOverRing
	newer := testInit
	newer.Minor = protocolMinor + 1
	for name, c := range map[string]struct {
		session Session
		opts    Options
		want    error
	}{
		"takeover without resend": {Session{Conn: k.conn, Init: old, Takeover: true}, Options{}, ErrNoResend},
		"takeover over io_uring":  {Session{Conn: k.conn, Init: ring, Takeover: true}, Options{}, ErrNoTakeover},
		"unknown minor version":   {Session{Conn: k.conn, Init: newer}, Options{}, ErrVersion},
		"no init state":           {Session{Conn: k.conn}, Options{}, ErrVersion},
		"fewer receivers":         {Session{Conn: k.conn, Init: testInit}, Options{Readers: 4, Receivers: 2}, errAny},
		"negative readers":        {Session{Conn: k.conn, Init: testInit}, Options{Readers: -1}, errAny},
	} {
		err := Serve(ctx, c.session, newStub(512), c.opts)
		if err == nil || c.want != errAny && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// errAny stands for an error without a sentinel.
var errAny = errors.New("any error")

// TestTakeoverResendsFirst checks that the notification is the first message of
// a session that is taken over, and that one that is not sends none.
func TestTakeoverResendsFirst(t *testing.T) {
	for _, takeover := range []bool{true, false} {
		k := newFakeKernel(t)
		k.send(message(opGetattr, 8, nodeRoot, uint64(0), uint64(0)))
		ctx, cancel := context.WithCancel(context.Background())
		k.result = make(chan error, 1)
		go func() {
			k.result <- Serve(ctx, Session{Conn: k.conn, Init: testInit, Takeover: takeover}, newStub(512), Options{})
		}()
		first := k.receive()
		// A notification is told from a reply by its unique, which is zero.
		if isNotification := first.unique == 0; isNotification != takeover {
			t.Errorf("takeover %t: first message is for %d", takeover, first.unique)
		}
		cancel()
		if err := k.end(); err != nil {
			t.Error(err)
		}
	}
}

func TestHandshake(t *testing.T) {
	const all = 0xffffffff
	cases := map[string]struct {
		in        kernelInit
		wish      Transport
		wantErr   error
		maxWrite  uint32
		minor     uint32
		canResend bool
		got       Transport
	}{
		"newest kernel":  {kernelInit{Major: 7, Minor: 99, Flags: all, Flags2: all}, TransportDevice, nil, 1 << 20, protocolMinor, true, TransportDevice},
		"over io_uring":  {kernelInit{Major: 7, Minor: 99, Flags: all, Flags2: all}, TransportRing, nil, ringPayloadBytes, protocolMinor, false, TransportRing},
		"not offered":    {kernelInit{Major: 7, Minor: 41, Flags: all, Flags2: uint32((all << 32 &^ flagOverRing) >> 32)}, TransportRing, nil, 1 << 20, protocolMinor, true, TransportDevice},
		"without flags2": {kernelInit{Major: 7, Minor: 41, Flags: all &^ uint32(flagInitExt), Flags2: all}, TransportRing, nil, 1 << 20, protocolMinor, false, TransportDevice},
		"before resend":  {kernelInit{Major: 7, Minor: 38, Flags: all}, TransportDevice, nil, 1 << 20, 38, false, TransportDevice},
		"no max_pages":   {kernelInit{Major: 7, Minor: 31}, TransportDevice, nil, 128 << 10, 31, false, TransportDevice},
		"too old":        {kernelInit{Major: 7, Minor: 30, Flags: all}, TransportDevice, ErrVersion, 0, 0, false, ""},
		"other major":    {kernelInit{Major: 8, Minor: 40, Flags: all}, TransportDevice, ErrVersion, 0, 0, false, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			k := newFakeKernel(t)
			k.send(message(opInit, 2, 0, c.in))
			s, err := Handshake(k.conn, c.wish)
			if !errors.Is(err, c.wantErr) {
				t.Fatalf("Handshake: %v, want %v", err, c.wantErr)
			}
			a := k.receive()
			if err != nil {
				if a.errno == 0 {
					t.Error("the kernel was not told that it was refused")
				}
				return
			}
			if s.Transport() != c.got || s.Validate() != nil {
				t.Errorf("agreed on %s: %v, want %s", s.Transport(), s.Validate(), c.got)
			}
			if s.MaxWriteBytes != c.maxWrite || s.Minor != c.minor || s.CanResend() != c.canResend {
				t.Errorf("agreed on %+v", s)
			}
			if len(a.body) != initOutBytes || binary.LittleEndian.Uint32(a.body[20:]) != c.maxWrite ||
				binary.LittleEndian.Uint16(a.body[28:]) != uint16(int(c.maxWrite)/os.Getpagesize()) {
				t.Errorf("reply % x", a.body)
			}
		})
	}
}
