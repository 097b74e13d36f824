package fuse

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newTestReader is a reader over fd whose entries are never registered.
func newTestReader(t *testing.T, dev *stubDevice, fd int, queues []uint16) *ringReader {
	t.Helper()
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(stop) })
	buffers, err := newPool(fd, stop, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(buffers.free)
	s := newServer(t.Context(), fd, stop, dev, buffers, ringOptions)
	r, err := newRingReader(s, queues, 4, maxWriteBytes)
	if err != nil {
		t.Skipf("io_uring is not to be had here, so nothing of it is tested: %v", err)
	}
	s.rings = []*ringReader{r}
	t.Cleanup(s.freeRings)
	return r
}

// TestRingServesTogether gives a reader what it might have taken in one turn, and
// looks at what it would hand over.
func TestRingServesTogether(t *testing.T) {
	dev := newStub(1 << 20)
	k := newFakeKernel(t)
	r := newTestReader(t, dev, int(k.conn.Fd()), []uint16{0, 1})
	b := &ringBatch{reader: r}
	for i, c := range []struct {
		msg  []byte
		args int
	}{
		{message(opWrite, 2, nodeFile, kernelRead{Size: 512}, string(make([]byte, 512))), writeInBytes},
		{message(opWrite, 3, nodeFile, kernelRead{Offset: 1, Size: 512}, string(make([]byte, 512))), writeInBytes},
		{message(opRead, 4, nodeFile, kernelRead{Size: 512}), readInBytes},
		{message(opGetattr, 5, nodeFile, uint64(0), uint64(0)), 16},
		{message(opForget, 6, nodeFile, uint64(1)), 8},
		{message(opWrite, 7, nodeFile, kernelRead{Offset: 512, Size: 512}, string(make([]byte, 512))), writeInBytes},
	} {
		kernelEntry(r.entries[i], c.msg, c.args, uint64(i)+2)
		b.entries = append(b.entries, r.entries[i])
	}
	// Somebody else has the turn, so that nothing is handed over.
	r.turn.Lock()
	err := r.serve(b)
	r.session.wg.Wait() // the read
	r.turn.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	got := map[uint64]string{}
	for _, e := range r.finished {
		got[binary.LittleEndian.Uint64(e.mem[8:])] = fmt.Sprint(-int32(binary.LittleEndian.Uint32(e.mem[4:])), binary.LittleEndian.Uint32(e.mem[ringPayloadAt:]))
	}
	want := map[uint64]string{
		2: fmt.Sprint(0, writeOutBytes), 3: fmt.Sprint(int32(unix.EINVAL), 0), 4: fmt.Sprint(0, 512), 5: fmt.Sprint(0, attrOutBytes),
		6: fmt.Sprint(int32(unix.ENOSYS), 0), 7: fmt.Sprint(0, writeOutBytes),
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("replies %v, want %v", got, want)
	}
}

// TestRingRefusesMalformed: a message that contradicts itself ends the session.
func TestRingRefusesMalformed(t *testing.T) {
	k := newFakeKernel(t)
	r := newTestReader(t, newStub(1<<20), int(k.conn.Fd()), []uint16{0})
	kernelEntry(r.entries[0], message(opRead, 2, nodeFile, uint64(0)), 8, 2)
	if err := r.serve(&ringBatch{reader: r, entries: r.entries[:1]}); !errors.Is(err, ErrProtocol) {
		t.Errorf("serve: %v, want ErrProtocol", err)
	}
}

// mountRing mounts a file system over io_uring, for which it sets the kernel's
// switch until the end of the test.
func mountRing(t *testing.T) (conn *os.File, state InitState, dir string) {
	t.Helper()
	parameter, err := os.OpenFile("/sys/module/fuse/parameters/enable_uring", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("not tested: FUSE over io_uring; needs root, Linux 6.14 and its switch: %v", err)
	}
	if err := ProbeRing(); err != nil {
		t.Skipf("not tested: FUSE over io_uring; this process cannot use io_uring: %v", err)
	}
	t.Cleanup(func() { _ = parameter.Close() })
	if err := unix.Flock(int(parameter.Fd()), unix.LOCK_EX); err != nil { // other processes test it too
		t.Fatal(err)
	}
	before := make([]byte, 1)
	if _, err := parameter.ReadAt(before, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := parameter.WriteAt(before, 0); err != nil {
			t.Error(err)
		}
	})
	if _, err := parameter.WriteAt([]byte("Y"), 0); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("not tested: FUSE over io_uring; needs /dev/fuse: %v", err)
	}
	conn = os.NewFile(uintptr(fd), "/dev/fuse")
	t.Cleanup(func() { _ = conn.Close() })
	dir = t.TempDir()
	if err := unix.Mount("test", dir, "fuse.lockstep-test", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		t.Skipf("not tested: FUSE over io_uring; cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH) })
	if state, err = Handshake(conn, TransportRing); err != nil {
		t.Fatal(err)
	}
	if state.Transport() != TransportRing {
		t.Fatalf("the kernel has agreed on %s", state.Transport())
	}
	return conn, state, dir
}

// TestWrongQueue: the kernel refuses entries for a CPU that cannot be, and Serve's
// server ends with that error.
func TestWrongQueue(t *testing.T) {
	conn, _, _ := mountRing(t)
	r := newTestReader(t, newStub(1<<20), int(conn.Fd()), []uint16{60000})
	ended := make(chan error, 1)
	go func() { ended <- r.session.run(t.Context()) }()
	select {
	case err := <-ended:
		if !errors.Is(err, unix.EINVAL) {
			t.Errorf("run: %v, want EINVAL", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("run does not return")
	}
}

// TestRingEnds: Serve returns when it is cancelled and when the file system goes,
// with whatever is under way answered.
func TestRingEnds(t *testing.T) {
	t.Run("unmounted", func(t *testing.T) {
		conn, state, dir := mountRing(t)
		ended := make(chan error, 1)
		go func() { ended <- Serve(t.Context(), Session{Conn: conn, Init: state}, newStub(1<<20), Options{}) }()
		if _, err := os.Stat(dir + "/" + FileName); err != nil {
			t.Fatal(err)
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		if err := within(t, ended); !errors.Is(err, ErrUnmounted) {
			t.Errorf("Serve: %v, want ErrUnmounted", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		conn, state, dir := mountRing(t)
		dev := newStub(1 << 20)
		dev.hold, dev.held = make(chan struct{}), make(chan struct{}, 1)
		k := &fakeKernel{T: t, result: make(chan error, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { k.result <- Serve(ctx, Session{Conn: conn, Init: state}, dev, Options{}) }()
		read := make(chan error, 1)
		go func() { read <- readSector(dir + "/" + FileName) }()
		<-dev.held
		cancel()
		select {
		case err := <-k.result:
			t.Fatalf("Serve returned (%v) before its request was answered", err)
		default:
		}
		close(dev.hold)
		if err := k.end(); err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := within(t, read); err != nil {
			t.Errorf("the read that was under way: %v", err)
		}
	})
}

func within(t *testing.T, result <-chan error) error {
	t.Helper()
	select {
	case err := <-result:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("nothing returns")
		return nil
	}
}

// readSector does not use os.File, whose poller would ask the file system from a
// thread that serving may need.
func readSector(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	if n, err := unix.Pread(fd, make([]byte, 512), 0); err != nil || n != 512 {
		return fmt.Errorf("read %d bytes: %w", n, err)
	}
	return nil
}
