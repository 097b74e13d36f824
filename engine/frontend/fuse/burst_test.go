package fuse

import (
	"testing"

	"golang.org/x/sys/unix"
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
