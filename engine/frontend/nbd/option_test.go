package nbd

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/engine"
)

// unhex decodes golden bytes; blanks are for the reader.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGoldenDecode pins what clients send, byte by byte.
func TestGoldenDecode(t *testing.T) {
	header, err := parseOptionHeader(unhex(t, "49484156454f5054 00000007 0000000b"))
	if want := (optionHeader{optGo, 11}); err != nil || header != want {
		t.Errorf("option header = %+v, %v; want %+v", header, err, want)
	}
	info, err := parseInfoRequest(unhex(t, "00000003 766f6c 0002 0003 0001"))
	if want := (infoRequest{"vol", []uint16{infoBlockSize, infoName}}); err != nil || !reflect.DeepEqual(info, want) {
		t.Errorf("GO data = %+v, %v; want %+v", info, err, want)
	}
	meta, err := parseMetaRequest(unhex(t, "00000001 76 00000002 00000005 626173653a 00000000"))
	if want := (metaRequest{"v", []string{"base:", ""}}); err != nil || !reflect.DeepEqual(meta, want) {
		t.Errorf("SET_META_CONTEXT data = %+v, %v; want %+v", meta, err, want)
	}
	r, err := parseRequest(unhex(t, "25609513 0011 0006 0102030405060708 0000000100000000 00010000"))
	want := request{flags: cmdFlagFUA | cmdFlagFastZero, command: cmdWriteZeroes, cookie: 0x0102030405060708, offset: 1 << 32, length: 1 << 16}
	if err != nil || r != want {
		t.Errorf("request = %+v, %v; want %+v", r, err, want)
	}
}

// TestGoldenEncode pins what the server sends, byte by byte.
func TestGoldenEncode(t *testing.T) {
	cases := []struct {
		name string
		got  []byte
		want string
	}{
		{"option ACK", appendOptionReply(nil, optGo, repAck, nil), "0003e889045565a9 00000007 00000001 00000000"},
		{"option error", appendOptionReply(nil, optList, repErrInvalid, []byte("no")), "0003e889045565a9 00000003 80000003 00000002 6e6f"},
		{"SERVER", serverData("vol", "text"), "00000003 766f6c 74657874"},
		{"INFO_EXPORT", exportData(1<<30, 0x0d6d), "0000 0000000040000000 0d6d"},
		{"INFO_NAME", textData(infoName, "vol"), "0001 766f6c"},
		{"INFO_DESCRIPTION", textData(infoDescription, "d"), "0002 64"},
		{"INFO_BLOCK_SIZE", blockSizeData(), "0003 00000200 00001000 02000000"},
		{"META_CONTEXT", metaContextData(1, "base:allocation"), "00000001 626173653a616c6c6f636174696f6e"},
		{"simple reply", appendSimpleReply(nil, 7, statusNoSpace), "67446698 0000001c 0000000000000007"},
		{"NONE chunk", appendChunkHeader(nil, 7, replyFlagDone, chunkNone, 0), "668e33ef 0001 0000 0000000000000007 00000000"},
		{"ERROR chunk", appendErrorChunk(nil, 7, statusIO, "bad"), "668e33ef 0001 8001 0000000000000007 00000009 00000005 0003 626164"},
		{"BLOCK_STATUS chunk", appendExtentsChunk(nil, 7, []engine.BlockRange{{Length: 512}, {Offset: 512, Length: 4096, Zero: true}}),
			"668e33ef 0001 0005 0000000000000007 00000014 00000001 00000200 00000000 00001000 00000003"},
	}
	for _, c := range cases {
		if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n got %x\nwant %x", c.name, c.got, want)
		}
	}

	data := newReply(nil)
	data.data(7, 0, 512, []byte{1, 2})
	data.hole(7, replyFlagDone, 514, 4096)
	want := unhex(t, `668e33ef 0000 0001 0000000000000007 0000000a 0000000000000200 0102
		668e33ef 0001 0002 0000000000000007 0000000c 0000000000000202 00001000`)
	if got := bytes.Join(data.parts, nil); !bytes.Equal(got, want) {
		t.Errorf("data and hole:\n got %x\nwant %x", got, want)
	}
}

// TestTruncatedOptions cuts good option data at every byte: nothing but the
// whole is accepted.
func TestTruncatedOptions(t *testing.T) {
	info, meta := goData("vol", infoName, infoBlockSize), metaData("vol", "base:", contextAllocation)
	for n := range info {
		if _, err := parseInfoRequest(info[:n]); !errors.Is(err, ErrProtocol) {
			t.Errorf("GO data cut at %d: %v, want ErrProtocol", n, err)
		}
	}
	for n := range meta {
		if _, err := parseMetaRequest(meta[:n]); !errors.Is(err, ErrProtocol) {
			t.Errorf("context data cut at %d: %v, want ErrProtocol", n, err)
		}
	}
	if _, err := parseInfoRequest(append(info, 0)); !errors.Is(err, ErrProtocol) {
		t.Errorf("GO data with a byte too many: %v, want ErrProtocol", err)
	}
	if _, err := parseMetaRequest(append(meta, 0)); !errors.Is(err, ErrProtocol) {
		t.Errorf("context data with a byte too many: %v, want ErrProtocol", err)
	}
}

// TestLengthsBeforeAllocation: a length that lies is refused, not allocated.
func TestLengthsBeforeAllocation(t *testing.T) {
	huge := binary.BigEndian.AppendUint32(nil, 0)
	huge = binary.BigEndian.AppendUint32(huge, 1<<31)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := parseMetaRequest(huge); err == nil {
		t.Error("accepted 2^31 queries in no bytes")
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
		t.Errorf("refusing 2^31 queries took %d bytes", used)
	}
}

func FuzzOptionData(f *testing.F) {
	f.Add(goData("vol", infoName, infoBlockSize))
	f.Add(metaData("vol", "base:", contextAllocation))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		if info, err := parseInfoRequest(data); err == nil {
			if again := goData(info.name, info.wants...); !bytes.Equal(again, data) {
				t.Errorf("GO data %x was understood as %+v, which is %x", data, info, again)
			}
		} else if !errors.Is(err, ErrProtocol) {
			t.Errorf("GO data %x: %v, want ErrProtocol", data, err)
		}
		if meta, err := parseMetaRequest(data); err == nil {
			if again := metaData(meta.name, meta.queries...); !bytes.Equal(again, data) {
				t.Errorf("context data %x was understood as %+v, which is %x", data, meta, again)
			}
		} else if !errors.Is(err, ErrProtocol) {
			t.Errorf("context data %x: %v, want ErrProtocol", data, err)
		}
	})
}

// FuzzRequest: whatever a request says, one that is not refused is within the
// device and aligned, and needs no more memory than there is.
func FuzzRequest(f *testing.F) {
	f.Add(requestHeader(request{command: cmdWrite, offset: 512, length: 4096}), true, true, uint32(64), false)
	f.Add(requestHeader(request{command: cmdRead, flags: cmdFlagDF, offset: 1<<64 - 512, length: 1024}), true, false, uint32(64), true)
	f.Fuzz(func(t *testing.T, raw []byte, structured, allocation bool, sectors uint32, readOnly bool) {
		if len(raw) < requestBytes {
			return
		}
		r, err := parseRequest(raw)
		if err != nil {
			return
		}
		if again := requestHeader(r); !bytes.Equal(again, raw[:requestBytes]) {
			t.Fatalf("request %x was understood as %+v, which is %x", raw, r, again)
		}
		size := int64(sectors) * minBlockBytes
		s, _ := refuse(r, negotiated{structured: structured, allocation: allocation}, size, readOnly)
		if s != statusOK || r.command == cmdDisconnect {
			return
		}
		end := r.offset + uint64(r.length)
		if end < r.offset || end > uint64(size) || r.offset%minBlockBytes != 0 || r.length%minBlockBytes != 0 {
			t.Errorf("%+v accepted on a device of %d bytes", r, size)
		}
		if (r.command == cmdRead || r.command == cmdWrite) && bufferBytes(int(r.length)) > connectionBytes {
			t.Errorf("%+v accepted, more than a connection's memory", r)
		}
	})
}
