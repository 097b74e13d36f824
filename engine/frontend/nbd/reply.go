package nbd

import (
	"encoding/binary"
	"sync"

	"github.com/lockstep-csi/lockstep/engine"
)

// reply is everything that is sent in answer to one request: one simple
// reply, or all chunks of a structured one.
type reply struct {
	parts [][]byte // in order; they alias heads and payload
	heads []byte   // encoded headers and small payloads

	payload *buffer // released with the reply; nil without one
}

// replies keeps the slices of sent replies for later ones.
var replies = sync.Pool{New: func() any { return new(reply) }}

// newReply returns an empty reply that owns payload, which may be nil.
func newReply(payload *buffer) *reply {
	r := replies.Get().(*reply)
	r.payload = payload
	return r
}

// release gives the reply and its payload back.
func (r *reply) release() {
	if r.payload != nil {
		r.payload.release()
	}
	clear(r.parts)
	r.parts, r.heads, r.payload = r.parts[:0], r.heads[:0], nil
	replies.Put(r)
}

// head runs encode, which appends to heads, and sends what it appended. When
// heads moves as it grows, the parts keep the old array alive.
func (r *reply) head(encode func([]byte) []byte) {
	start := len(r.heads)
	r.heads = encode(r.heads)
	r.parts = append(r.parts, r.heads[start:len(r.heads):len(r.heads)])
}

// simple adds a simple reply; data follows it, and may be nil.
func (r *reply) simple(cookie uint64, s status, data []byte) {
	r.head(func(b []byte) []byte { return appendSimpleReply(b, cookie, s) })
	if len(data) > 0 {
		r.parts = append(r.parts, data)
	}
}

// data adds a chunk with content.
func (r *reply) data(cookie uint64, flags uint16, offset uint64, data []byte) {
	r.head(func(b []byte) []byte {
		b = appendChunkHeader(b, cookie, flags, chunkOffsetData, uint32(8+len(data)))
		return binary.BigEndian.AppendUint64(b, offset)
	})
	r.parts = append(r.parts, data)
}

// hole adds a chunk that stands for zeroes.
func (r *reply) hole(cookie uint64, flags uint16, offset uint64, length uint32) {
	r.head(func(b []byte) []byte {
		b = appendChunkHeader(b, cookie, flags, chunkOffsetHole, 12)
		b = binary.BigEndian.AppendUint64(b, offset)
		return binary.BigEndian.AppendUint32(b, length)
	})
}

// none adds the chunk that ends a reply without content.
func (r *reply) none(cookie uint64) {
	r.head(func(b []byte) []byte { return appendChunkHeader(b, cookie, replyFlagDone, chunkNone, 0) })
}

// failed adds the chunk that ends a failed reply.
func (r *reply) failed(cookie uint64, s status, message string) {
	r.head(func(b []byte) []byte { return appendErrorChunk(b, cookie, s, message) })
}

// extents adds the answer to BLOCK_STATUS.
func (r *reply) extents(cookie uint64, ranges []engine.BlockRange) {
	r.head(func(b []byte) []byte { return appendExtentsChunk(b, cookie, ranges) })
}

func appendSimpleReply(b []byte, cookie uint64, s status) []byte {
	b = binary.BigEndian.AppendUint32(b, magicSimpleReply)
	b = binary.BigEndian.AppendUint32(b, uint32(s))
	return binary.BigEndian.AppendUint64(b, cookie)
}

func appendChunkHeader(b []byte, cookie uint64, flags, chunk uint16, length uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, magicStructuredReply)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, chunk)
	b = binary.BigEndian.AppendUint64(b, cookie)
	return binary.BigEndian.AppendUint32(b, length)
}

// appendErrorChunk appends a final error chunk; a long message is cut.
func appendErrorChunk(b []byte, cookie uint64, s status, message string) []byte {
	message = message[:min(len(message), maxMessageBytes)]
	b = appendChunkHeader(b, cookie, replyFlagDone, chunkError, uint32(6+len(message)))
	b = binary.BigEndian.AppendUint32(b, uint32(s))
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	return append(b, message...)
}

// appendExtentsChunk appends a final chunk with the state of ranges, each at
// most 2^32-1 bytes long.
func appendExtentsChunk(b []byte, cookie uint64, ranges []engine.BlockRange) []byte {
	b = appendChunkHeader(b, cookie, replyFlagDone, chunkBlockStatus, uint32(4+8*len(ranges)))
	b = binary.BigEndian.AppendUint32(b, contextAllocationID)
	for _, r := range ranges {
		var state uint32
		if r.Zero {
			state = stateHole | stateZero
		}
		b = binary.BigEndian.AppendUint32(b, uint32(r.Length))
		b = binary.BigEndian.AppendUint32(b, state)
	}
	return b
}
