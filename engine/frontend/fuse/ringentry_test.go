package fuse

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// kernelEntry does the kernel's part: it puts msg, a message as it would come from
// /dev/fuse with argsBytes of arguments, into an entry (fuse_uring_args_to_ring).
func kernelEntry(e *ringEntry, msg []byte, argsBytes int, commit uint64) {
	clear(e.mem[:ringHeadersBytes])
	copy(e.mem, msg[:inHeaderBytes])
	copy(e.mem[128:256], msg[inHeaderBytes:inHeaderBytes+argsBytes])
	payload := msg[inHeaderBytes+argsBytes:]
	copy(e.data(), payload)
	binary.LittleEndian.PutUint64(e.mem[264:], commit)
	binary.LittleEndian.PutUint32(e.mem[272:], uint32(len(payload)))
}

func newTestEntry(t *testing.T, payloadBytes int) *ringEntry {
	t.Helper()
	e, err := newRingEntry(3, 7, payloadBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.free)
	return e
}

// TestUnfold: what the kernel has taken apart is again what it would have sent over
// /dev/fuse, and a WRITE's data is where it was.
func TestUnfold(t *testing.T) {
	data := string(bytes.Repeat([]byte("lockstep"), 512))
	cases := map[string]struct {
		msg  []byte
		args int
	}{
		"write":             {message(opWrite, 8, nodeFile, kernelRead{Offset: 4096, Size: 4096}, data), 40},
		"read":              {message(opRead, 8, nodeFile, kernelRead{Offset: 4096, Size: 4096}), 40},
		"lookup":            {message(opLookup, 8, nodeRoot, FileName+"\x00"), 0},
		"setattr":           {message(opSetattr, 8, nodeFile, kernelSetattr{Valid: setattrSize, Size: 512}), setattrInBytes},
		"nothing":           {message(opStatfs, 8, nodeRoot), 0},
		"longest arguments": {message(opcode(4711), 8, nodeRoot, string(make([]byte, ringArgsBytes))), ringArgsBytes},
	}
	e := newTestEntry(t, len(data))
	for name, c := range cases {
		kernelEntry(e, c.msg, c.args, 99)
		got, err := e.unfold()
		if err != nil || !bytes.Equal(got, c.msg) || e.commit != 99 {
			t.Errorf("%s: % x for request %d, %v\nwant % x", name, got, e.commit, err, c.msg)
		}
		if h, _, err := decodeRequest(got); err != nil || h.unique != 8 {
			t.Errorf("%s: decoded %+v, %v", name, h, err)
		}
		if payload := got[inHeaderBytes+c.args:]; len(payload) > 0 && &payload[0] != &e.data()[0] {
			t.Errorf("%s: the payload was moved", name)
		}
	}
}

func TestUnfoldRefuses(t *testing.T) {
	write := message(opWrite, 8, nodeFile, kernelRead{Size: 512}, string(make([]byte, 512)))
	for name, change := range map[string]func(headers []byte){
		"payload longer than its place": func(h []byte) {
			binary.LittleEndian.PutUint32(h, inHeaderBytes+writeInBytes+8192)
			binary.LittleEndian.PutUint32(h[ringPayloadAt:], 8192)
		},
		"payload longer than the message": func(h []byte) { binary.LittleEndian.PutUint32(h[ringPayloadAt:], 600) },
		"payload of 4 GiB":                func(h []byte) { binary.LittleEndian.PutUint32(h[ringPayloadAt:], 1<<32-1) },
		"payload cut short":               func(h []byte) { binary.LittleEndian.PutUint32(h[ringPayloadAt:], 100) },
		"message without a header":        func(h []byte) { clear(h) },
	} {
		e := newTestEntry(t, 4096)
		kernelEntry(e, write, writeInBytes, 8)
		change(e.mem)
		if msg, err := e.unfold(); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %d bytes, %v, want ErrProtocol", name, len(msg), err)
		}
	}
}

// TestShortPayload: a payload that is shorter than its WRITE says, while the
// lengths add up, is found where it is over /dev/fuse.
func TestShortPayload(t *testing.T) {
	e := newTestEntry(t, 4096)
	kernelEntry(e, message(opWrite, 8, nodeFile, kernelRead{Size: 512}, string(make([]byte, 100))), writeInBytes, 8)
	msg, err := e.unfold()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeWrite(msg[inHeaderBytes:]); !errors.Is(err, ErrProtocol) {
		t.Errorf("a WRITE of 512 bytes with 100: %v, want ErrProtocol", err)
	}
}

func TestFold(t *testing.T) {
	e := newTestEntry(t, 4096)
	e.fold(e.reply(8, putWriteOut(e.data(), 512), 0))
	h := e.mem[:ringHeadersBytes]
	if unique, n := binary.LittleEndian.Uint64(h[8:]), binary.LittleEndian.Uint32(h[272:]); unique != 8 || n != writeOutBytes || binary.LittleEndian.Uint32(e.data()) != 512 {
		t.Errorf("reply to %d with %d bytes", unique, n)
	}
	e.fold(e.reply(9, 0, unix.EIO))
	if errno, n := int32(binary.LittleEndian.Uint32(h[4:])), binary.LittleEndian.Uint32(h[272:]); errno != -int32(unix.EIO) || n != 0 {
		t.Errorf("error reply: %d with %d bytes", errno, n)
	}
}

// TestCommands checks where a command's parameters are in a submission of 128 bytes.
func TestCommands(t *testing.T) {
	r, err := setUpRing(4, ringSetupWide|ringSetupCoop)
	if err != nil {
		t.Skipf("io_uring is not to be had here, so nothing of it is tested: %v", err)
	}
	defer r.free()
	e := newTestEntry(t, 4096)
	e.commit = 0x1122334455667788
	e.pushCommand(r, 1, 5, ringCommitAndFetch)
	sqe := r.entries[128:256]
	if sqe[0] != 46 || binary.LittleEndian.Uint32(sqe[4:]) != 5 || binary.LittleEndian.Uint32(sqe[8:]) != 2 || binary.LittleEndian.Uint64(sqe[32:]) != 3 {
		t.Errorf("submission % x", sqe)
	}
	if commit, queue := binary.LittleEndian.Uint64(sqe[56:]), binary.LittleEndian.Uint16(sqe[64:]); commit != e.commit || queue != 7 {
		t.Errorf("commit %#x, queue %d", commit, queue)
	}
	e.pushCommand(r, 1, 5, ringRegister)
	if binary.LittleEndian.Uint32(sqe[8:]) != 1 || binary.LittleEndian.Uint64(sqe[16:]) == 0 || binary.LittleEndian.Uint32(sqe[24:]) != 2 {
		t.Errorf("registration % x", sqe)
	}
}

func TestEntriesPerQueue(t *testing.T) {
	for queues, want := range map[int]int{1: 16, 2: 16, 8: 16, 16: 8, 64: 2, 128: 1, 4096: 1} {
		if got := entriesPerQueue(queues, ringPayloadBytes); got != want {
			t.Errorf("%d queues have %d entries each, want %d", queues, got, want)
		}
	}
}

func TestCountCPUs(t *testing.T) {
	for list, want := range map[string]int{"0": 1, "0-1": 2, "0-3,8-11,16": 9} {
		if got, err := countCPUs(list); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", list, got, err, want)
		}
	}
	for _, list := range []string{"", "-", "0-", "3-1", "a", "0,,1", "0-99999999"} {
		if got, err := countCPUs(list); err == nil {
			t.Errorf("%q: %d, want an error", list, got)
		}
	}
}

func TestParseTransport(t *testing.T) {
	for text, want := range map[string]Transport{"": TransportDevice, "dev-fuse": TransportDevice, "io-uring": TransportRing} {
		if got, err := ParseTransport(text); err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if got, err := ParseTransport("uring"); err == nil {
		t.Errorf("uring: %q", got)
	}
}
