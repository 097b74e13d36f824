package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A frame is a record as a segment holds it: a local part of 16 bytes that
// this store writes, the record's portable header, the payload.
const (
	frameLocalBytes  = 16
	frameHeaderBytes = frameLocalBytes + RecordHeaderBytes
	frameAlign       = 8
	frameMagic       = 0x3152534c // "LSR1"
)

// frameBytes is the room that a frame takes in a segment.
func frameBytes(payloadBytes int) int64 {
	return (frameHeaderBytes + int64(payloadBytes) + frameAlign - 1) &^ (frameAlign - 1)
}

// putFrameHeader writes the header of r's frame into b. durable is the highest
// seq on the path that was durable in this store when the frame was written:
// with it, recovery tells a torn tail from damage.
func putFrameHeader(b []byte, r *Record, durable Seq, volume VolumeID) {
	_ = b[frameHeaderBytes-1]
	r.putHeader(b[frameLocalBytes:], volume)
	binary.LittleEndian.PutUint32(b[0:], frameMagic)
	binary.LittleEndian.PutUint64(b[8:], uint64(durable))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:frameLocalBytes+4], castagnoli))
}

// decodeFrameHeader verifies a frame's header and returns the record without
// payload, the payload's length and the durable mark.
func decodeFrameHeader(b []byte, volume VolumeID) (Record, int, Seq, error) {
	if len(b) < frameHeaderBytes {
		return Record{}, 0, 0, wireCorrupt("frame header", fmt.Sprintf("%d bytes", frameHeaderBytes), fmt.Sprint(len(b)))
	}
	if magic := binary.LittleEndian.Uint32(b); magic != frameMagic {
		return Record{}, 0, 0, wireCorrupt("frame header", fmt.Sprintf("magic %08x", uint32(frameMagic)), fmt.Sprintf("%08x", magic))
	}
	want := binary.LittleEndian.Uint32(b[4:])
	if got := crc32.Checksum(b[8:frameLocalBytes+4], castagnoli); got != want {
		return Record{}, 0, 0, wireCorrupt("frame header", fmt.Sprintf("crc %08x", want), fmt.Sprintf("crc %08x", got))
	}
	durable := Seq(binary.LittleEndian.Uint64(b[8:]))
	r, payloadBytes, err := decodeHeader(b[frameLocalBytes:], volume)
	if err != nil {
		return Record{}, 0, 0, err
	}
	if durable >= r.Position.Seq {
		return Record{}, 0, 0, wireCorrupt("frame's durable mark", fmt.Sprintf("below %d", r.Position.Seq), fmt.Sprint(durable))
	}
	return r, payloadBytes, durable, nil
}
