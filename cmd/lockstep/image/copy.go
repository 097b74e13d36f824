package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/lockstep-csi/lockstep/journal"
)

const (
	// chunkBytes is what is read at once.
	chunkBytes = 1 << 20
	// holeBytes is the granularity at which zeroes are left out: a file system's
	// block.
	holeBytes = 4096
)

// Source is what is copied. Offsets and lengths are in whole sectors.
type Source interface {
	SizeBytes() int64
	// NextData returns the first run at or after off that may hold other bytes
	// than zeroes; length 0: there is none.
	NextData(off int64) (start, length int64, err error)
	// ReadAt fails with journal.ErrCorrupt where bytes are damaged.
	ReadAt(p []byte, off int64) error
}

// Sink takes an image in ascending order. Offsets and lengths are in whole
// sectors; together the calls cover the image once.
type Sink interface {
	// Write stores bytes, which are the caller's again on return.
	Write(p []byte, off int64) error
	// Zero stores zeroes, without allocating where the sink can.
	Zero(off, length int64) error
}

// Missing is a part of an image that was damaged, and is zeroes in the copy.
type Missing struct {
	Offset, Length int64
	Cause          error
}

// Copied says what a copy has done.
type Copied struct {
	DataBytes int64 // that were other than zeroes
	Missing   []Missing
}

// Progress counts what a copy has passed, in bytes of the image. It may be read
// meanwhile.
type Progress struct{ Done, Total atomic.Int64 }

// Copy copies a source. With keepGoing, parts that are damaged become zeroes and
// are told; without, they end it. Errors: journal.ErrCorrupt, ctx's, those of
// source and sink.
func Copy(ctx context.Context, from Source, to Sink, keepGoing bool, progress *Progress) (Copied, error) {
	c := copier{ctx: ctx, from: from, to: to, keepGoing: keepGoing, buf: make([]byte, chunkBytes)}
	size := from.SizeBytes()
	progress.Total.Store(size)
	for at := int64(0); at < size; progress.Done.Store(at) {
		start, length, err := from.NextData(at)
		if err != nil {
			return c.copied, fmt.Errorf("find data behind offset %d: %w", at, err)
		}
		if length == 0 {
			start = size
		}
		if start > at {
			if err := to.Zero(at, start-at); err != nil {
				return c.copied, err
			}
		}
		if at = start; at == size {
			continue
		}
		n := min(length, chunkBytes-start%chunkBytes)
		if err := c.part(start, n); err != nil {
			return c.copied, err
		}
		at += n
	}
	return c.copied, nil
}

type copier struct {
	ctx       context.Context
	from      Source
	to        Sink
	keepGoing bool
	buf       []byte
	copied    Copied
}

// part copies a run of at most chunkBytes.
func (c *copier) part(off, length int64) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	p := c.buf[:length]
	err := c.from.ReadAt(p, off)
	switch {
	case err == nil:
		return c.write(p, off)
	case !errors.Is(err, journal.ErrCorrupt) || !c.keepGoing:
		return fmt.Errorf("read %d bytes at offset %d of the volume: %w", length, off, err)
	case length > journal.SectorBytes:
		half := length / 2 / journal.SectorBytes * journal.SectorBytes
		if err := c.part(off, half); err != nil {
			return err
		}
		return c.part(off+half, length-half)
	}
	c.miss(Missing{off, length, err})
	return c.to.Zero(off, length)
}

// miss notes a damaged sector, as a part of the one before if it can be.
func (c *copier) miss(m Missing) {
	if n := len(c.copied.Missing); n > 0 {
		last := &c.copied.Missing[n-1]
		if last.Offset+last.Length == m.Offset && last.Cause.Error() == m.Cause.Error() {
			last.Length += m.Length
			return
		}
	}
	c.copied.Missing = append(c.copied.Missing, m)
}

var zeroes [holeBytes]byte

// write gives the sink runs of zeroes and of other bytes. A run begins where a
// block does.
func (c *copier) write(p []byte, off int64) error {
	for len(p) > 0 {
		n, zero := leadingRun(p, off)
		var err error
		if zero {
			err = c.to.Zero(off, n)
		} else {
			c.copied.DataBytes += n
			err = c.to.Write(p[:n], off)
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// leadingRun measures the blocks at the beginning of p that are all zeroes, or all
// are not.
func leadingRun(p []byte, off int64) (n int64, zero bool) {
	for n < int64(len(p)) {
		block := p[n:min(int64(len(p)), n+holeBytes-(off+n)%holeBytes)]
		isZero := bytes.Equal(block, zeroes[:len(block)])
		if n == 0 {
			zero = isZero
		} else if isZero != zero {
			break
		}
		n += int64(len(block))
	}
	return n, zero
}
