package nbd

import (
	"bytes"
	"fmt"
	"reflect"
	"syscall"
	"testing"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/frontend/conformance"
)

// structured opens a client with everything negotiated.
func structured(t *testing.T, r *running) *client {
	t.Helper()
	return dial(t, r.path, "vol", clientOptions{structured: true, allocation: true})
}

func TestReadChunks(t *testing.T) {
	dev := conformance.NewMemory(64 << 20)
	data := bytes.Repeat([]byte{7}, 4096)
	if err := dev.WriteAt(t.Context(), data, 8192, false); err != nil {
		t.Fatal(err)
	}
	c := structured(t, serve(t, Config{}, dev))
	cases := []struct {
		name   string
		flags  uint16
		length uint32
		want   []uint16
	}{
		{"hole, data, hole", 0, 16384, []uint16{chunkOffsetHole, chunkOffsetData, chunkOffsetHole}},
		{"unfragmented", cmdFlagDF, 16384, []uint16{chunkOffsetData}},
		{"unfragmented, greatest size", cmdFlagDF, maxRequestBytes, []uint16{chunkOffsetData}},
		{"short zeroes are not worth a hole", 0, maxRequestBytes, []uint16{chunkOffsetData, chunkOffsetHole}},
		{"zeroes only", 0, 8192, []uint16{chunkOffsetHole}},
		{"nothing", 0, 0, []uint16{chunkNone}},
	}
	for _, tc := range cases {
		into := bytes.Repeat([]byte{0xee}, int(tc.length))
		call := c.do(request{command: cmdRead, flags: tc.flags, length: tc.length}, nil, into)
		if call.err != nil || call.covered != len(into) {
			t.Fatalf("%s: %d of %d bytes, %v", tc.name, call.covered, len(into), call.err)
		}
		want := make([]byte, max(len(into), 12288))
		copy(want[8192:], data)
		if !bytes.Equal(into, want[:len(into)]) {
			t.Errorf("%s: wrong bytes", tc.name)
		}
		if !reflect.DeepEqual(call.chunks, tc.want) {
			t.Errorf("%s: chunks %v, want %v", tc.name, call.chunks, tc.want)
		}
	}
}

func TestBlockStatus(t *testing.T) {
	dev := conformance.NewMemory(1 << 20)
	for _, off := range []int64{0, 64 << 10} {
		if err := dev.WriteAt(t.Context(), bytes.Repeat([]byte{7}, 4096), off, false); err != nil {
			t.Fatal(err)
		}
	}
	c := structured(t, serve(t, Config{}, dev))
	cases := []struct {
		flags       uint16
		off, length int64
		want        []uint32
	}{
		{0, 0, 1 << 20, []uint32{4096, 0, 60 << 10, 3, 4096, 0, 956 << 10, 3}},
		{cmdFlagReqOne, 0, 1 << 20, []uint32{4096, 0}},
		{cmdFlagReqOne, 512, 1024, []uint32{1024, 0}},
		{0, 4096, 8192, []uint32{8192, 3}},
	}
	for _, tc := range cases {
		call := c.do(request{command: cmdBlockStatus, flags: tc.flags, offset: uint64(tc.off), length: uint32(tc.length)}, nil, nil)
		if call.err != nil || !reflect.DeepEqual(call.extents, tc.want) {
			t.Errorf("status of [%d, +%d): %v, %v; want %v", tc.off, tc.length, call.extents, call.err, tc.want)
		}
	}
	dev.Fail(conformance.Match{Op: conformance.OpBlockStatus}, 1, engine.ErrPoisoned)
	if errno := errnoOf(c.request(cmdBlockStatus, 0, 0, 4096)); errno != syscall.EIO {
		t.Errorf("failed block status: errno %d, want EIO", errno)
	}
}

func TestZeroFlags(t *testing.T) {
	dev := conformance.NewMemory(8 << 20)
	c := structured(t, serve(t, Config{}, dev))
	full := bytes.Repeat([]byte{7}, 4<<20)
	wantZeroes := func(what string, hole bool) {
		t.Helper()
		p := make([]byte, len(full))
		if err := dev.ReadAt(t.Context(), p, 0); err != nil || !bytes.Equal(p, make([]byte, len(full))) {
			t.Errorf("%s: the range is not zero (%v)", what, err)
		}
		ranges, err := dev.BlockStatus(t.Context(), 0, int64(len(full)), 1)
		if err != nil || ranges[0].Zero != hole || ranges[0].Length != int64(len(full)) {
			t.Errorf("%s: status %+v, %v; want one range, hole %v", what, ranges, err, hole)
		}
	}
	for _, tc := range []struct {
		name  string
		flags uint16
		hole  bool
	}{
		{"zeroes", 0, true},
		{"fast zeroes", cmdFlagFastZero, true},
		{"zeroes without a hole", cmdFlagNoHole, false},
		{"durable zeroes", cmdFlagFUA, true},
		{"durable zeroes without a hole", cmdFlagNoHole | cmdFlagFUA, false},
	} {
		if err := c.write(full, 0, 0); err != nil {
			t.Fatal(err)
		}
		if err := c.request(cmdWriteZeroes, tc.flags, 0, int64(len(full))); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		wantZeroes(tc.name, tc.hole)
		if tc.flags&cmdFlagFUA != 0 && !dev.Durable(0, int64(len(full))) {
			t.Errorf("%s: not durable", tc.name)
		}
	}
	if err := c.write(full, 0, cmdFlagFUA); err != nil {
		t.Fatal(err)
	}
	errno := errnoOf(c.request(cmdWriteZeroes, cmdFlagFastZero|cmdFlagNoHole, 0, 4096))
	p := make([]byte, 4096)
	if err := dev.ReadAt(t.Context(), p, 0); errno != syscall.ENOTSUP || err != nil || p[0] != 7 {
		t.Errorf("fast zeroes without a hole: errno %d (%v), content %d; want ENOTSUP and no change", errno, err, p[0])
	}
	if err := c.request(cmdTrim, cmdFlagFUA, 0, int64(len(full))); err != nil || !dev.Durable(0, int64(len(full))) {
		t.Errorf("trim with FUA: %v, durable %v", err, dev.Durable(0, int64(len(full))))
	}
}

// TestRefusedRequestsKeepTheStream: after each refusal, with and without
// payload, the next request is understood.
func TestRefusedRequestsKeepTheStream(t *testing.T) {
	for _, o := range []clientOptions{{}, {structured: true, allocation: true}} {
		t.Run(fmt.Sprintf("structured %v", o.structured), func(t *testing.T) {
			dev := conformance.NewMemory(1 << 20)
			c := dial(t, serve(t, Config{}, dev).path, "vol", o)
			want := bytes.Repeat([]byte{9}, 4096)
			if err := c.write(want, 0, 0); err != nil {
				t.Fatal(err)
			}
			cases := []struct {
				name    string
				request request
				payload int
				errno   syscall.Errno
			}{
				{"unaligned write", request{command: cmdWrite, offset: 1, length: 512}, 512, syscall.EINVAL},
				{"write beyond the end", request{command: cmdWrite, offset: 1 << 20, length: 8192}, 8192, syscall.ENOSPC},
				{"write too long", request{command: cmdWrite, length: maxRequestBytes + 512}, maxRequestBytes + 512, syscall.ENOSPC},
				{"read too long", request{command: cmdRead, length: 1<<32 - 512}, 0, syscall.EINVAL},
				{"unknown command", request{command: 77, length: 512}, 0, syscall.EINVAL},
				{"unknown flag", request{command: cmdTrim, flags: 1 << 9, length: 512}, 0, syscall.EINVAL},
				{"flush of a range", request{command: cmdFlush, offset: 512, length: 512}, 0, syscall.EINVAL},
			}
			for _, tc := range cases {
				call := c.do(tc.request, make([]byte, tc.payload), nil)
				if got := errnoOf(call.err); got != tc.errno {
					t.Errorf("%s: errno %d, want %d", tc.name, got, tc.errno)
				}
				p := make([]byte, 4096)
				if err := c.read(p, 0); err != nil || !bytes.Equal(p, want) {
					t.Fatalf("%s: the read after it: %v", tc.name, err)
				}
			}
		})
	}
}

// TestFlushCoversAllConnections is what CAN_MULTI_CONN promises.
func TestFlushCoversAllConnections(t *testing.T) {
	dev := conformance.NewMemory(1 << 20)
	r := serve(t, Config{}, dev)
	one, two := structured(t, r), structured(t, r)
	want := bytes.Repeat([]byte{9}, 4096)
	if err := one.write(want, 4096, 0); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4096)
	if err := two.read(p, 4096); err != nil || !bytes.Equal(p, want) {
		t.Fatalf("the other connection does not see the write: %v", err)
	}
	if dev.Durable(4096, 4096) {
		t.Fatal("durable before the flush: this case proves nothing")
	}
	if err := two.request(cmdFlush, 0, 0, 0); err != nil || !dev.Durable(4096, 4096) {
		t.Fatalf("flush on the other connection: %v, durable %v", err, dev.Durable(4096, 4096))
	}
}
