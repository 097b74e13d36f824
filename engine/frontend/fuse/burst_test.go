package fuse

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
)

// TestLateRequestStaysInItsSlot: the first read finds nothing, then a request
// comes and the second read takes it. The burst's own receiver must stay where
// it is, or it would be given away as a spare one while it is in use.
func TestLateRequestStaysInItsSlot(t *testing.T) {
	own, spare := &receiver{}, &receiver{}
	b := burst{}
	b.slots[0], b.slots[1] = own, spare
	got, err := b.collect([]operation{{err: unix.ECANCELED}, {n: 40}})
	if err != nil || got != 1 {
		t.Fatalf("collected %d requests: %v, want 1", got, err)
	}
	if b.slots[0] != own || b.slots[1] != spare || b.bytes[0] != 0 || b.bytes[1] != 40 {
		t.Errorf("slots changed places: own first %t, bytes %v", b.slots[0] == own, b.bytes)
	}
}

// batchedStub takes batches as an engine does, and no larger ones.
type batchedStub struct {
	*stubDevice
	batches []int
}

func (d *batchedStub) WriteBatch(ctx context.Context, writes []engine.Write) error {
	if len(writes) > engine.MaxBatch {
		return engine.ErrOutOfRange
	}
	d.batches = append(d.batches, len(writes))
	for _, w := range writes {
		if err := d.WriteAt(ctx, w.Data, w.Offset, false); err != nil {
			return err
		}
	}
	return nil
}

// TestMoreWritesThanABatchTakes: the entries of a ring can hold more writes at once than a
// device takes together. They are stored in batches all the same, in their order.
func TestMoreWritesThanABatchTakes(t *testing.T) {
	const count = 2*engine.MaxBatch + 3
	dev := &batchedStub{stubDevice: newStub(1 << 20)}
	s := newService(t.Context(), dev)
	var w writeBatch
	slots := make([]buffer, count)
	for i := range slots {
		slots[i].mem = make([]byte, headroomBytes+engine.SectorBytes)
		msg := message(opWrite, uint64(i)+2, nodeFile, kernelRead{Size: engine.SectorBytes}, string(bytes.Repeat([]byte{byte(i) + 1}, engine.SectorBytes)))
		h, body, err := decodeRequest(slots[i].request()[:copy(slots[i].request(), msg)])
		if err != nil {
			t.Fatal(err)
		}
		if refusal, err := s.addWrite(&w, i, &slots[i], h, body); err != nil || refusal != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	var queued queuedReplies
	if err := s.storeWrites(&w, &queued); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(dev.batches, []int{engine.MaxBatch, engine.MaxBatch, 3}) || len(queued) != count || dev.data[0] != count {
		t.Errorf("batches of %v, %d replies, write %d was the last", dev.batches, len(queued), dev.data[0])
	}
}

type queuedReplies []int

func (q *queuedReplies) queue(place int, _ []byte) { *q = append(*q, place) }
func (q *queuedReplies) send() error               { return nil }

// TestReadsThatFindNothing: none of the ways in which a read of a burst can find nothing
// ends the session.
func TestReadsThatFindNothing(t *testing.T) {
	for _, found := range []unix.Errno{unix.ECANCELED, unix.EINTR, unix.ENOENT, unix.EAGAIN} {
		b := burst{}
		got, err := b.collect([]operation{{err: found}, {n: 40}, {err: found}})
		if err != nil || got != 1 {
			t.Errorf("%v: %d requests, %v, want 1", found, got, err)
		}
	}
}

// TestRing runs a list over a socket: what waits is read, what does not is
// cancelled, and replies go out in their order, round after round.
func TestRing(t *testing.T) {
	r, err := newRing(4)
	if err != nil {
		t.Skipf("io_uring is not to be had here, so nothing of it is tested: %v", err)
	}
	defer r.free()
	k := newFakeKernel(t)
	fd := int(k.conn.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	mem, err := newBuffer(8192)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.free()
	for round := range 100 {
		waiting := round % 3
		for i := range waiting {
			k.send([]byte{byte(round), byte(i)})
		}
		putOutHeader(mem.data()[4096:], outHeaderBytes, 0, uint64(round)+1)
		ops := []operation{
			{write: true, mem: mem.data()[4096 : 4096+outHeaderBytes]},
			{mem: mem.data()[:16]}, {mem: mem.data()[16:32]}, {mem: mem.data()[32:48]},
		}
		if err := r.do(fd, ops); err != nil {
			t.Fatal(err)
		}
		for i, o := range ops[1:] {
			switch {
			case i < waiting && (o.err != nil || o.n != 2 || o.mem[0] != byte(round) || o.mem[1] != byte(i)):
				t.Fatalf("round %d: read %d: %d bytes % x, %v", round, i, o.n, o.mem[:2], o.err)
			case i >= waiting && o.err != unix.ECANCELED:
				t.Fatalf("round %d: read %d found %d bytes, %v, want ECANCELED", round, i, o.n, o.err)
			}
		}
		if a := k.receive(); a.unique != uint64(round)+1 {
			t.Fatalf("round %d: reply to %d", round, a.unique)
		}
	}
}

// TestEveryRequestIsAnsweredOnce has several readers take bursts from one
// connection: a reply that waits to be sent must not be overwritten by what
// another reader receives.
func TestEveryRequestIsAnsweredOnce(t *testing.T) {
	const requests = 4000
	k := serve(t, newStub(1<<20), Options{Readers: 3, Receivers: 6})
	ops := [][]byte{
		message(opWrite, 0, nodeFile, kernelRead{Size: 512}, string(make([]byte, 512))),
		message(opRead, 0, nodeFile, kernelRead{Size: 512}),
		message(opWrite, 0, nodeFile, kernelRead{Offset: 4096, Size: 4096}, string(make([]byte, 4096))),
		message(opFsync, 0, nodeFile, uint64(1), uint64(0)),
	}
	window := make(chan struct{}, 64) // requests in flight, as the kernel bounds them
	go func() {
		for i := range requests {
			window <- struct{}{}
			msg := ops[i*7%11%len(ops)]
			binary.LittleEndian.PutUint64(msg[8:], uint64(i)+2)
			if _, err := k.side.Write(msg); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	seen := make(map[uint64]bool, requests)
	for range requests {
		a := k.receive()
		if a.errno != 0 || seen[a.unique] || a.unique < 2 || a.unique >= requests+2 {
			t.Fatalf("reply to %d after %d: %v, seen before: %t", a.unique, len(seen), a.errno, seen[a.unique])
		}
		seen[a.unique] = true
		<-window
	}
}

// TestQueuedRepliesKeepTheirBuffers: a buffer with a reply that was not sent yet
// is not to be had by anybody else.
func TestQueuedRepliesKeepTheirBuffers(t *testing.T) {
	const receivers = 4
	k := newFakeKernel(t)
	fd := int(k.conn.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(stop) }()
	buffers, err := newPool(fd, stop, receivers, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer buffers.free()
	s := newServer(t.Context(), fd, stop, newStub(1<<20), buffers, Options{Readers: 1, Receivers: receivers})
	r := buffers.takeReceiver()
	r.burst.want = 3
	for unique := range uint64(2) {
		k.send(message(opWrite, unique+2, nodeFile, kernelRead{Size: 512}, string(make([]byte, 512))))
	}
	got, err := s.exchange(r)
	if err != nil || got != 2 {
		t.Fatalf("exchange: %d requests, %v, want 2", got, err)
	}
	if kept, err := s.serve(r, got); err != nil || !kept {
		t.Fatalf("serve: kept %t, %v", kept, err)
	}
	if queued, free := len(r.burst.replies), len(buffers.receivers); queued != 2 || free != receivers-2 {
		t.Fatalf("%d replies queued and %d buffers free, want 2 and %d", queued, free, receivers-2)
	}
	if got, err := s.exchange(r); err != nil || got != 0 {
		t.Fatalf("exchange: %d requests, %v, want none", got, err)
	}
	for unique := range uint64(2) {
		if a := k.receive(); a.unique != unique+2 || a.errno != 0 {
			t.Errorf("reply to %d: %v, want one to %d", a.unique, a.errno, unique+2)
		}
	}
	if free := len(buffers.receivers); free != receivers-1 {
		t.Errorf("%d buffers free after the replies were sent, want %d", free, receivers-1)
	}
}
