package replication

import (
	"errors"
	"fmt"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

// imageSource is the part of a source that sends an image: the allocated
// extents of a view in ascending order.
type imageSource struct {
	at      journal.Position
	from    int64 // where it begins; above 0 when it goes on
	view    View
	started bool
	offset  int64 // everything below is sent or reads as zeroes
	end     int64 // of the extent that offset is in; 0: to be looked up
	buffer  []byte
}

// beginImage opens the image to send: the partial one that the replica has,
// if its position can still be opened, else one of a recent durable state. The
// reader for the records behind it is opened first, so that they cannot leave
// the journal unnoticed while the image is under way.
func (s *source) beginImage(partial *replicationv1.PartialImage) error {
	at, from := s.store.ImagePosition(), int64(0)
	if partial != nil {
		resumed := decodePosition(partial.GetAt())
		if reader, err := s.store.Records(resumed); err == nil {
			reader.Close()
			at, from = resumed, partial.GetNextOffset()
		}
	}
	reader, err := s.store.Records(at)
	if err != nil {
		return fmt.Errorf("read records behind %s: %w", at, err)
	}
	view, err := s.store.View(at)
	if err != nil {
		reader.Close()
		return fmt.Errorf("open image at %s: %w", at, err)
	}
	if from < 0 || from > view.SizeBytes() {
		reader.Close()
		return errors.Join(fmt.Errorf("partial image ends at %d of %d bytes: %w", from, view.SizeBytes(), ErrProtocol), view.Close())
	}
	s.reader, s.timeline, s.last = reader, at.Timeline, at
	s.image = &imageSource{at: at, from: from, view: view, offset: from}
	s.stats.beginImage(view.SizeBytes(), from)
	return nil
}

// nextOfImage returns ImageStart, the chunks, and ImageEnd, in this order.
func (s *source) nextOfImage() (*replicationv1.SourceMessage, error) {
	im := s.image
	if !im.started {
		im.started = true
		s.number++
		s.credit.spend(charge{number: s.number})
		return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_ImageStart{ImageStart: &replicationv1.ImageStart{
			Number: s.number, At: encodePosition(im.at), SizeBytes: im.view.SizeBytes(), FromOffset: im.from,
			Timelines: encodeTimelines(ancestry(s.store.Timelines(), im.at.Timeline)),
		}}}, nil
	}
	data, offset, err := im.read(s.credit)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		return s.endImage()
	}
	s.number++
	s.credit.spend(charge{number: s.number, rawBytes: int64(len(data))})
	kind, packed := s.codec.pack(data)
	s.stats.sentImage(int64(len(data)), int64(len(packed)), offset+int64(len(data)))
	return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Chunk{Chunk: &replicationv1.Chunk{
		Number: s.number, Offset: offset, Codec: kind, RawBytes: int64(len(data)),
		// The message outlives the buffer: a transport may hold it.
		Crc: journal.PayloadChecksum(data), Data: append([]byte(nil), packed...)}}}, nil
}

// read returns the next bytes that are not all zero, and their offset; no
// bytes at the end. errNoCredit leaves the image where it was.
func (im *imageSource) read(c *credit) ([]byte, int64, error) {
	for {
		if im.offset >= im.end {
			start, length, err := im.view.NextData(im.offset)
			if err != nil {
				return nil, 0, fmt.Errorf("find data behind %d: %w", im.offset, err)
			}
			if length == 0 {
				return nil, 0, nil
			}
			im.offset, im.end = start, min(start+length, im.view.SizeBytes())
		}
		n := min(im.end-im.offset, MaxChunkBytes)
		if !c.fits(n) {
			return nil, 0, errNoCredit
		}
		if im.buffer == nil {
			im.buffer = make([]byte, MaxChunkBytes)
		}
		data, offset := im.buffer[:n], im.offset
		if err := im.view.ReadAt(data, offset); err != nil {
			return nil, 0, fmt.Errorf("read image at %d: %w", offset, err)
		}
		im.offset += n
		if !allZero(data) {
			return data, offset, nil
		}
	}
}

// endImage says that the image is complete; its ack carries its position.
func (s *source) endImage() (*replicationv1.SourceMessage, error) {
	at := s.image.at
	s.image.close()
	s.image = nil
	s.number++
	s.credit.spend(charge{number: s.number, through: at})
	return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_ImageEnd{
		ImageEnd: &replicationv1.ImageEnd{Number: s.number}}}, nil
}

// close releases the view. It was only read, so that an error of Close can
// lose nothing.
func (im *imageSource) close() { _ = im.view.Close() }

// allZero compares p with itself shifted by one, which needs no second buffer.
func allZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && string(p[1:]) == string(p[:len(p)-1])
}
