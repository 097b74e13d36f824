package journal

import (
	"errors"
	"fmt"
	"io"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// scanBufferBytes is what is read at once: the longest record with the headers of
// its frame and the next, so that none of them is read in two pieces.
const scanBufferBytes = MaxPayloadBytes + 2*frameHeaderBytes

// frameScanner reads the frames of one segment in order and verifies each
// completely. It reads ahead in large pieces into a buffer of its own.
type frameScanner struct {
	file     vfs.File
	name     string
	volume   VolumeID
	timeline TimelineID
	next     Seq   // seq that the next frame must have
	off      int64 // file offset of the next frame
	limit    int64 // file offset that frames must not reach beyond
	gaps     bool  // the segment was thinned: next is the lowest that may follow
	// headersOnly leaves payloads unread and unverified.
	headersOnly bool

	buf    []byte // file content from bufOff on
	bufOff int64
}

func newFrameScanner(seg *segment, limit int64) *frameScanner {
	return &frameScanner{
		file: seg.file, name: seg.name, volume: seg.volume, timeline: seg.timeline,
		next: seg.first, off: blockBytes, limit: limit, gaps: seg.thinned > 0,
	}
}

// frame is a scanned frame. The record's payload is valid until the next scan.
type frame struct {
	Record
	off     int64 // file offset of the frame
	durable Seq
}

func (f *frame) payloadOffset() int64 { return f.off + frameHeaderBytes }
func (f *frame) end() int64           { return f.off + frameBytes(len(f.Payload)) }

// scan returns the next frame; io.EOF at the limit; an error matching
// ErrCorrupt where the bytes are not the frame that must follow. Damage and
// the torn end of a log look the same here: see scanUnsealed.
func (s *frameScanner) scan() (frame, error) {
	if s.off == s.limit || s.off+frameHeaderBytes > s.limit && !s.gaps {
		return frame{}, io.EOF
	}
	if s.off+frameHeaderBytes > s.limit {
		return frame{}, s.damage("frame", "a header before the end", fmt.Sprintf("%d bytes", s.limit-s.off))
	}
	header, err := s.bytes(s.off, frameHeaderBytes)
	if err != nil {
		return frame{}, err
	}
	r, payloadBytes, durable, err := decodeFrameHeader(header, s.volume)
	if err != nil {
		return frame{}, s.locate(err)
	}
	if want := (Position{s.timeline, s.next}); r.Position != want && !(s.gaps && r.Position.Timeline == s.timeline && r.Position.Seq > s.next) {
		return frame{}, s.damage("record position", want.String(), r.Position.String())
	}
	if s.off+frameBytes(payloadBytes) > s.limit {
		return frame{}, s.damage("frame", fmt.Sprintf("end at most at %d", s.limit), fmt.Sprint(s.off+frameBytes(payloadBytes)))
	}
	if s.headersOnly {
		f := frame{Record: r, off: s.off, durable: durable}
		s.next, s.off = r.Position.Seq+1, s.off+frameBytes(payloadBytes)
		return f, nil
	}
	r.Payload, err = s.bytes(s.off+frameHeaderBytes, payloadBytes)
	if err != nil {
		return frame{}, err
	}
	if got := PayloadChecksum(r.Payload); got != r.PayloadCRC {
		return frame{}, s.damage("payload of seq "+fmt.Sprint(r.Position.Seq), fmt.Sprintf("crc %08x", r.PayloadCRC), fmt.Sprintf("crc %08x", got))
	}
	f := frame{Record: r, off: s.off, durable: durable}
	s.next = r.Position.Seq + 1
	s.off = f.end()
	return f, nil
}

func (s *frameScanner) damage(what, wanted, found string) error {
	return &CorruptError{File: s.name, Offset: s.off, What: what, Wanted: wanted, Found: found}
}

// locate gives a decoder's error the place where the bytes were found.
func (s *frameScanner) locate(err error) error { return locate(err, s.name, s.off) }

func locate(err error, name string, off int64) error {
	var c *CorruptError
	if errors.As(err, &c) {
		placed := *c
		placed.File, placed.Offset = name, off
		return &placed
	}
	return fmt.Errorf("read %s at offset %d: %w", name, off, err)
}

// bytes returns file content, reading ahead up to the limit.
func (s *frameScanner) bytes(off int64, n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	if off >= s.bufOff && off+int64(n) <= s.bufOff+int64(len(s.buf)) {
		return s.buf[off-s.bufOff:][:n:n], nil
	}
	want := min(max(int64(n), scanBufferBytes), s.limit-off)
	kept := 0 // what is there of it is not read again
	if from := off - s.bufOff; from >= 0 && from < int64(len(s.buf)) {
		kept = copy(s.buf, s.buf[from:])
	}
	if int64(cap(s.buf)) < want {
		s.buf = append(make([]byte, 0, want), s.buf[:kept]...)
	}
	s.buf, s.bufOff = s.buf[:want], off
	if err := readFull(s.file, s.buf[kept:], off+int64(kept)); err != nil {
		s.buf = s.buf[:0]
		return nil, unread(s.name, off, err)
	}
	return s.buf[:n:n], nil
}

// readFull fills p; a file that is too short is an error.
func readFull(f vfs.File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	return shortRead(err)
}

// shortRead is the error of a read that did not give all bytes.
func shortRead(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
