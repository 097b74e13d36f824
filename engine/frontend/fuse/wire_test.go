package fuse

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

// message builds a request as the kernel would, field by field from
// linux/fuse.h, so that the decoders are not tested against themselves.
func message(op opcode, unique, node uint64, body ...any) []byte {
	var b bytes.Buffer
	for _, field := range body {
		if s, ok := field.(string); ok {
			b.WriteString(s)
			continue
		}
		if err := binary.Write(&b, binary.LittleEndian, field); err != nil {
			panic(err)
		}
	}
	h := struct {
		Len, Opcode    uint32
		Unique, Node   uint64
		UID, GID, PID  uint32
		ExtLen, Unused uint16
	}{Len: uint32(inHeaderBytes + b.Len()), Opcode: uint32(op), Unique: unique, Node: node}
	var msg bytes.Buffer
	if err := binary.Write(&msg, binary.LittleEndian, h); err != nil {
		panic(err)
	}
	msg.Write(b.Bytes())
	return msg.Bytes()
}

// The structures of linux/fuse.h that the tests send.
type (
	kernelRead struct {
		Handle, Offset  uint64
		Size, ReadFlags uint32
		LockOwner       uint64
		Flags, Padding  uint32
	}
	kernelFallocate struct {
		Handle, Offset, Length uint64
		Mode, Padding          uint32
	}
	kernelSetattr struct {
		Valid, Padding      uint32
		Handle, Size, Owner uint64
		Rest                [56]byte
	}
	kernelInit struct {
		Major, Minor, MaxReadahead, Flags, Flags2 uint32
		Unused                                    [11]uint32
	}
)

func TestDecodeRequests(t *testing.T) {
	msg := message(opWrite, 1<<63|42, nodeFile,
		kernelRead{Handle: 1, Offset: 1 << 40, Size: 4, Flags: unix.O_DSYNC}, "data")
	h, err := decodeHeader(msg)
	if err != nil {
		t.Fatal(err)
	}
	if want := (inHeader{length: uint32(len(msg)), op: opWrite, unique: 1<<63 | 42, node: nodeFile}); h != want {
		t.Errorf("header %+v, want %+v", h, want)
	}
	w, err := decodeWrite(msg[inHeaderBytes:])
	if err != nil {
		t.Fatal(err)
	}
	if want := (writeIn{offset: 1 << 40, openFlags: unix.O_DSYNC, data: []byte("data")}); !reflect.DeepEqual(w, want) {
		t.Errorf("write %+v, want %+v", w, want)
	}
	r, err := decodeRead(message(opRead, 1, 2, kernelRead{Offset: 512, Size: 4096})[inHeaderBytes:])
	if want := (readIn{offset: 512, size: 4096}); err != nil || r != want {
		t.Errorf("read %+v, %v, want %+v", r, err, want)
	}
	f, err := decodeFallocate(message(opFallocate, 1, 2, kernelFallocate{Offset: 1, Length: 2, Mode: 3})[inHeaderBytes:])
	if want := (fallocateIn{offset: 1, length: 2, mode: 3}); err != nil || f != want {
		t.Errorf("fallocate %+v, %v, want %+v", f, err, want)
	}
	s, err := decodeSetattr(message(opSetattr, 1, 2, kernelSetattr{Valid: 8, Size: 77})[inHeaderBytes:])
	if want := (setattrIn{valid: 8, size: 77}); err != nil || s != want {
		t.Errorf("setattr %+v, %v, want %+v", s, err, want)
	}
	in, err := decodeInit(message(opInit, 1, 0, kernelInit{
		Major: 7, Minor: 45, MaxReadahead: 131072, Flags: uint32(flagInitExt), Flags2: 1 << 7,
	})[inHeaderBytes:])
	if want := (initIn{major: 7, minor: 45, maxReadahead: 131072, flags: flagInitExt | flagHasResend}); err != nil || in != want {
		t.Errorf("init %+v, %v, want %+v", in, err, want)
	}
}

// TestDecodeTruncated cuts every kind of message at every byte. None may be
// taken for a whole one.
func TestDecodeTruncated(t *testing.T) {
	bodies := map[string]struct {
		body   []byte
		decode func([]byte) error
	}{
		"init":      {make([]byte, initInBytes), func(p []byte) error { _, err := decodeInit(p); return err }},
		"read":      {make([]byte, readInBytes), func(p []byte) error { _, err := decodeRead(p); return err }},
		"fallocate": {make([]byte, fallocateInBytes), func(p []byte) error { _, err := decodeFallocate(p); return err }},
		"setattr":   {make([]byte, setattrInBytes), func(p []byte) error { _, err := decodeSetattr(p); return err }},
		"name":      {[]byte("device\x00"), func(p []byte) error { _, err := decodeName(p); return err }},
		"write": {message(opWrite, 1, 2, kernelRead{Size: 5}, "12345")[inHeaderBytes:],
			func(p []byte) error { _, err := decodeWrite(p); return err }},
		"header": {message(opGetattr, 1, 2, uint64(0), uint64(0)),
			func(p []byte) error { _, err := decodeHeader(p); return err }},
	}
	for name, c := range bodies {
		t.Run(name, func(t *testing.T) {
			if err := c.decode(c.body); err != nil {
				t.Fatalf("whole message: %v", err)
			}
			for n := range len(c.body) {
				if err := c.decode(c.body[:n]); !errors.Is(err, ErrProtocol) {
					t.Errorf("cut to %d of %d bytes: %v, want ErrProtocol", n, len(c.body), err)
				}
			}
		})
	}
}

func TestDirents(t *testing.T) {
	// Reading through buffers that hold only one entry must give each entry
	// once, in order, and then the end.
	var names []string
	p := make([]byte, direntBytes+8)
	for off := int64(0); ; {
		n := putDirents(p, off)
		if n == 0 {
			break
		}
		off = int64(binary.LittleEndian.Uint64(p[8:]))
		names = append(names, string(p[direntBytes:direntBytes+binary.LittleEndian.Uint32(p[16:])]))
	}
	if want := []string{".", "..", FileName}; !reflect.DeepEqual(names, want) {
		t.Errorf("entries %q, want %q", names, want)
	}
	for _, off := range []int64{3, 4, math.MaxInt64} {
		if n := putDirents(p, off); n != 0 {
			t.Errorf("%d bytes of entries at offset %d", n, off)
		}
	}
	if n := putDirents(p[:direntBytes], 0); n != 0 {
		t.Errorf("%d bytes of entries in a buffer that holds none", n)
	}
}

// TestReplyLayouts checks a few fields of each reply where linux/fuse.h puts
// them; the kernel checks the rest in the tests of node/holder.
func TestReplyLayouts(t *testing.T) {
	dirty := func() []byte { return bytes.Repeat([]byte{0xee}, 256) }
	u32 := func(p []byte, at int) uint32 { return binary.LittleEndian.Uint32(p[at:]) }
	u64 := func(p []byte, at int) uint64 { return binary.LittleEndian.Uint64(p[at:]) }
	file := attr{node: nodeFile, mode: modeFile, size: 1 << 33}

	p := dirty()
	putOutHeader(p, 24, unix.EIO, 1<<63|6)
	if u32(p, 0) != 24 || int32(u32(p, 4)) != -5 || u64(p, 8) != 1<<63|6 {
		t.Errorf("reply header % x", p[:outHeaderBytes])
	}
	p = dirty()
	if n := putEntryOut(p, file); n != 128 || u64(p, 0) != 2 || u64(p, 16) != 0 || u64(p, 24) != 0 || u64(p, 40+8) != 1<<33 {
		t.Errorf("entry % x", p[:n])
	}
	p = dirty()
	if n := putAttrOut(p, file); n != 104 || u64(p, 0) != 0 || u32(p, 16+60) != modeFile {
		t.Errorf("attributes % x", p[:n])
	}
	p = dirty()
	if n := putOpenOut(p, fileHandle, openDirectIO); n != 16 || u64(p, 0) != 1 || u64(p, 8) != 1 {
		t.Errorf("open % x", p[:n])
	}
	p = dirty()
	if n := putWriteOut(p, 4096); n != 8 || u64(p, 0) != 4096 {
		t.Errorf("write % x", p[:n])
	}
	p = dirty()
	if n := putStatfsOut(p, 1<<20); n != 80 || u64(p, 0) != 256 || u64(p, 8) != 0 || u32(p, 40) != 4096 {
		t.Errorf("statfs % x", p[:n])
	}
	p = dirty()
	n := putInitOut(p, InitState{Major: 7, Minor: 40, Flags: flagHasResend | flagAsyncDIO, MaxWriteBytes: 1 << 20, MaxBackground: 512})
	if n != 64 || u32(p, 12) != 1<<15 || u32(p, 16) != 512<<16|512 || u32(p, 20) != 1<<20 || u32(p, 32) != 1<<7 {
		t.Errorf("init % x", p[:n])
	}
	if got := notification(notifyResend, nil); u32(got, 0) != 16 || u32(got, 4) != 7 || u64(got, 8) != 0 {
		t.Errorf("resend notification % x", got)
	}
}

// TestFileNames: everyone who attaches a loop device has a name of his own for
// the file.
func TestFileNames(t *testing.T) {
	for name, want := range map[string]bool{
		FileName: true, FileName + "-1": true, FileName + "-": true,
		"": false, "devic": false, "devices": false, "x-" + FileName: false,
	} {
		if got := isFileName([]byte(name)); got != want {
			t.Errorf("%q: %t, want %t", name, got, want)
		}
	}
}

// FuzzDecode feeds arbitrary messages to every decoder: no panic, and what is
// accepted stays inside the message.
func FuzzDecode(f *testing.F) {
	f.Add(message(opWrite, 2, nodeFile, kernelRead{Size: 3}, "abc"))
	f.Add(message(opFallocate, 2, nodeFile, kernelFallocate{Mode: 3}))
	f.Add(message(opLookup, 2, nodeRoot, FileName+"\x00"))
	f.Add(message(opInit, 2, 0, kernelInit{Major: 7, Minor: 45, Flags: math.MaxUint32}))
	f.Add(message(opSetattr, 2, nodeFile, kernelSetattr{Valid: setattrSize}))
	f.Fuzz(func(t *testing.T, msg []byte) {
		h, err := decodeHeader(msg)
		if err != nil {
			return
		}
		if int(h.length) != len(msg) {
			t.Fatalf("message of %d bytes accepted as one of %d", len(msg), h.length)
		}
		body := msg[inHeaderBytes:]
		if w, err := decodeWrite(body); err == nil && len(w.data) != len(body)-writeInBytes {
			t.Fatalf("write of %d bytes in a body of %d", len(w.data), len(body))
		}
		if name, err := decodeName(body); err == nil && bytes.IndexByte(name, 0) >= 0 {
			t.Fatalf("name %q holds its terminator", name)
		}
		if in, err := decodeInit(body); err == nil {
			if s, err := negotiate(in, TransportRing); err == nil && s.Validate() != nil {
				t.Fatalf("negotiated %+v, which is not valid", s)
			}
		}
		if r, err := decodeRead(body); err == nil && r.size >= 0 {
			putDirents(make([]byte, min(r.size, 1<<12)), r.offset)
		}
		_, _ = decodeFallocate(body)
		_, _ = decodeSetattr(body)
	})
}
