package nbd

import (
	"math/bits"
	"sync"
)

// Payload buffers come in powers of two from minBufferBytes to
// maxRequestBytes, so that requests of like sizes share them.
const (
	minBufferBytes = 4096
	minBufferShift = 12
)

// bufferPools has one pool per size. Buffers in it are garbage once unused.
var bufferPools [26 - minBufferShift]sync.Pool

// buffer is the payload of one request.
type buffer struct {
	bytes []byte // the requested length
	full  []byte // all of it, a power of two
}

// bufferBytes is how much memory a buffer of length bytes takes.
func bufferBytes(length int) int {
	if length <= minBufferBytes {
		return minBufferBytes
	}
	return 1 << bits.Len(uint(length-1))
}

// takeBuffer returns a buffer of length bytes, at most maxRequestBytes, with
// arbitrary content.
func takeBuffer(length int) *buffer {
	size := bufferBytes(length)
	b, ok := bufferPools[bits.Len(uint(size))-1-minBufferShift].Get().(*buffer)
	if !ok {
		b = &buffer{full: make([]byte, size)}
	}
	b.bytes = b.full[:length]
	return b
}

// release gives the buffer back. Nobody may use its bytes afterwards.
func (b *buffer) release() {
	b.bytes = nil
	bufferPools[bits.Len(uint(len(b.full)))-1-minBufferShift].Put(b)
}
