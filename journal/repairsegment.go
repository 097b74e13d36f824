package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// badFrame is where a segment lacks a whole frame.
type badFrame struct {
	off  int64 // where it begins
	seq  Seq   // of its record; 0 if that cannot be told
	end  int64 // where the next whole frame begins, or the frames end
	last Seq   // the seq before that frame's, or the segment's last
	// header is the frame's header, if that is whole.
	header []byte
	// sum is the checksum that the record's header has, where the frame's local
	// part is whole and says so.
	sum    uint32
	hasSum bool
}

// nextSegmentRepair returns a question about the first record of a segment that is
// damaged and was not asked about. Where all records are whole, the rest of the file
// is mended from them. The segment must be held.
func (s *Store) nextSegmentRepair(ctx context.Context, g *segment) (q RepairQuestion, ok bool, err error) {
	s.mu.RLock()
	snap := g.snapshot()
	s.mu.RUnlock()
	damaged := false
	err = eachBadFrame(ctx, snap, func(bad *badFrame) bool {
		damaged = true
		at := damagePlace{g.name, bad.off}
		if bad.seq == 0 || s.repairs.asked[at] || bad.header == nil && !snap.sealed {
			return true
		}
		s.repairs.asked[at] = true
		q, ok = RepairQuestion{Record: Position{g.timeline, bad.seq}}, true
		s.repairs.about[q] = damageRange{g.name, bad.off, bad.end}
		return false
	})
	if err != nil || damaged {
		return q, ok, err
	}
	if err := s.mendBlocks(ctx, snap); err != nil {
		return q, false, err
	}
	s.damage.healed(g.name, 0, g.bytes)
	return q, false, nil
}

// eachBadFrame finds the damaged frames of a segment, in order, until each returns
// false. What the disk cannot read is damaged.
func eachBadFrame(ctx context.Context, snap segmentSnapshot, each func(*badFrame) bool) error {
	g := snap.segment
	file := readableFile{g.file}
	scanner := newFrameScanner(g, snap.end)
	scanner.file = file
	for scanner.next <= snap.last {
		if err := ctx.Err(); err != nil {
			return err
		}
		_, err := scanner.scan()
		switch {
		case err == nil:
			continue
		case scanner.gaps && errors.Is(err, io.EOF):
			return nil
		case !errors.Is(err, io.EOF) && !errors.Is(err, ErrCorrupt):
			return err
		}
		bad, next, err := describeBad(file, snap, scanner)
		if err != nil || !each(&bad) || next == 0 {
			return err
		}
		scanner.off, scanner.next = bad.end, next
	}
	return nil
}

// describeBad says what is known of the frame that a scanner could not read, and the
// seq with which the frames go on behind it; 0 if there are none.
func describeBad(file vfs.File, snap segmentSnapshot, at *frameScanner) (bad badFrame, next Seq, err error) {
	bad = badFrame{off: at.off, end: snap.end, last: snap.last}
	if !at.gaps {
		bad.seq = at.next
	}
	if at.off+frameHeaderBytes > snap.end {
		return bad, 0, nil
	}
	b := make([]byte, frameHeaderBytes)
	if err := readFull(file, b, at.off); err != nil {
		return bad, 0, fmt.Errorf("read %s at offset %d: %w", at.name, at.off, err)
	}
	r, payloadBytes, _, err := decodeFrameHeader(b, snap.volume)
	fits := err == nil && r.Position.Timeline == snap.timeline && at.off+frameBytes(payloadBytes) <= snap.end && r.Position.Seq <= snap.last
	if fits && (r.Position.Seq == at.next || at.gaps && r.Position.Seq > at.next) {
		bad.header, bad.seq, bad.last, bad.end = b, r.Position.Seq, r.Position.Seq, at.off+frameBytes(payloadBytes)
		return bad, bad.seq + 1, nil
	}
	// Of another record's header, whole but in the wrong place, nothing is believed.
	if err != nil && binary.LittleEndian.Uint32(b) == frameMagic && crc32.Checksum(b[8:frameLocalBytes+4], castagnoli) == binary.LittleEndian.Uint32(b[4:]) {
		bad.sum, bad.hasSum = binary.LittleEndian.Uint32(b[frameLocalBytes:]), true
	}
	found, off, err := findFrame(file, at.name, snap.volume, at.off+frameAlign, snap.end, func(r *Record, _ Seq) bool {
		return r.Position.Timeline == snap.timeline && (r.Position.Seq > at.next || at.gaps && r.Position.Seq == at.next) && r.Position.Seq <= snap.last
	})
	if err != nil {
		return bad, 0, err
	}
	if found != nil {
		bad.end, bad.last, next = off, found.Position.Seq-1, found.Position.Seq
	}
	// Thinning left gaps: the seq is what the header says, if something else proves
	// the record that has it.
	if told := Seq(binary.LittleEndian.Uint64(b[frameLocalBytes+24:])); at.gaps && bad.hasSum && told >= at.next && told <= bad.last {
		bad.seq = told
	}
	return bad, next, nil
}

// takeRecord writes a record in the place of its damaged frame.
func (s *Store) takeRecord(q RepairQuestion, a RepairAnswer) error {
	r, n, err := DecodeRecord(a.Data, s.volume)
	switch {
	case err != nil:
		return err
	case n != len(a.Data) || r.Position != q.Record:
		return wireCorrupt("answer", q.String()+" and nothing else", fmt.Sprintf("record %s in %d of %d bytes", r.Position, n, len(a.Data)))
	}
	s.mu.RLock()
	g := s.segmentOfLocked(q.Record)
	if g == nil {
		s.mu.RUnlock()
		return nil // destaged, or thinned out
	}
	g.users.Add(1)
	snap := g.snapshot()
	s.mu.RUnlock()
	defer s.releaseSegment(g)
	var bad *badFrame
	err = eachBadFrame(context.Background(), snap, func(b *badFrame) bool {
		if b.seq == q.Record.Seq {
			bad = b
		}
		return bad == nil
	})
	if err != nil || bad == nil {
		return err
	}
	p, off, err := bad.repairWith(&r, a.Data, snap)
	if err != nil {
		return err
	}
	return s.putFrame(snap, bad, p, off)
}

// repairWith returns what is to be written where, after making sure that it is
// what was there.
func (bad *badFrame) repairWith(r *Record, data []byte, snap segmentSnapshot) (p []byte, off int64, err error) {
	if bad.header != nil {
		if string(bad.header[frameLocalBytes:]) != string(data[:RecordHeaderBytes]) {
			return nil, 0, wireCorrupt("answer", "the record whose header the segment has", fmt.Sprintf("another %s", r.Kind))
		}
		return data[RecordHeaderBytes:], bad.off + frameHeaderBytes, nil
	}
	if !snap.sealed {
		return nil, 0, fmt.Errorf("repair the header of a frame of %s: the segment is being written", snap.name)
	}
	if sum := binary.LittleEndian.Uint32(data); bad.hasSum && sum != bad.sum {
		return nil, 0, wireCorrupt("answer", fmt.Sprintf("a header with crc %08x", bad.sum), fmt.Sprintf("crc %08x", sum))
	}
	// It takes exactly the room that there is, or leaves room for the others that
	// are missing up to there.
	room, takes := bad.end-bad.off, frameBytes(len(r.Payload))
	more := int64(bad.last-r.Position.Seq) * frameHeaderBytes
	if snap.thinned > 0 {
		more = 0 // of a thinned segment the checksum above is the proof
	}
	if exact := more == 0 && snap.thinned == 0; takes+more > room || exact && takes != room {
		return nil, 0, wireCorrupt("answer", fmt.Sprintf("a frame of %d bytes", room), fmt.Sprintf("%d bytes", takes))
	}
	p = make([]byte, frameHeaderBytes, frameHeaderBytes+len(r.Payload))
	putFrameHeader(p, r, 0, snap.volume)
	return append(p, r.Payload...), bad.off, nil
}

// putFrame writes a part of a damaged frame, durably, and reads the frame back.
func (s *Store) putFrame(snap segmentSnapshot, bad *badFrame, p []byte, off int64) error {
	g := snap.segment
	if _, err := g.file.WriteAt(p, off); err != nil {
		return fmt.Errorf("write %d bytes at %d of %s: %w", len(p), off, g.name, mapFull(err))
	}
	if err := s.syncSegment(g); err != nil {
		return err
	}
	g.file.DropCache()
	scanner := newFrameScanner(g, snap.end)
	scanner.file = readableFile{g.file} // what follows may not be readable yet
	scanner.off, scanner.next = bad.off, bad.seq
	f, err := scanner.scan()
	if err != nil {
		return fmt.Errorf("read back what was repaired: %w", errUnlikely(err))
	}
	s.frames.drop(segmentPlace{g, 0})
	s.damage.healed(g.name, bad.off, frameBytes(len(f.Payload)))
	s.noteRepaired(g.name, bad.off, "record "+f.Position.String())
	if f.Position.Seq < bad.last { // the damage was known by its first frame
		if _, err := scanner.scan(); errors.Is(err, ErrCorrupt) {
			_ = s.noteDamage(err)
		}
	}
	return nil
}

// errUnlikely keeps damage that a repair has left from being taken for that of an
// answer, which was right.
func errUnlikely(err error) error { return errors.New(err.Error()) }

// mendBlocks makes a sealed segment's header, footer and trailer anew where they are
// damaged, from its records, which are all whole, and from what the store knows of
// them.
func (s *Store) mendBlocks(ctx context.Context, snap segmentSnapshot) error {
	g := snap.segment
	if !snap.sealed {
		return nil
	}
	if err := s.asDamage(g.checkHeader()); errors.Is(err, ErrCorrupt) {
		h := segmentHeader{volume: g.volume, id: g.id, timeline: g.timeline, first: g.first, bytes: g.bytes, created: g.closedAt, generation: g.generation}
		if err := s.putBlock(g, h.encode(), 0); err != nil {
			return err
		}
		if err := g.checkHeader(); err != nil {
			return err
		}
		s.noteRepaired(g.name, 0, "segment header")
	} else if err != nil {
		return err
	}
	_, err := g.readFooter()
	if err = s.asDamage(err); err == nil || !errors.Is(err, ErrCorrupt) {
		return err
	}
	f, err := g.footerOfFrames(ctx, snap)
	if err != nil {
		return err
	}
	body, block := f.encode()
	if got := crc32.Checksum(body, castagnoli); got != g.footerCRC {
		return fmt.Errorf("make footer of %s from its records: crc %08x, want %08x", g.name, got, g.footerCRC)
	}
	if err := s.putBlock(g, body, f.offset()); err != nil {
		return err
	}
	if err := s.putBlock(g, block, g.bytes-blockBytes); err != nil {
		return err
	}
	if _, err := g.readFooter(); err != nil {
		return err
	}
	s.noteRepaired(g.name, f.offset(), "segment footer")
	return nil
}

// putBlock writes a piece of a segment that is not of a record, durably.
func (s *Store) putBlock(g *segment, p []byte, off int64) error {
	if _, err := g.file.WriteAt(p, off); err != nil {
		return fmt.Errorf("write %d bytes at %d of %s: %w", len(p), off, g.name, mapFull(err))
	}
	if err := s.syncSegment(g); err != nil {
		return err
	}
	g.file.DropCache()
	return nil
}

// footerOfFrames makes the footer of a sealed segment from its frames.
func (g *segment) footerOfFrames(ctx context.Context, snap segmentSnapshot) (footer, error) {
	m := newExtentMap()
	f := footer{id: g.id, timeline: g.timeline, first: g.first, last: snap.last, end: snap.end}
	err := walkFrames(g, snap.end, func(fr *frame) error {
		switch fr.Kind {
		case KindCheckpoint:
			c, err := checkpointOf(&fr.Record)
			if err != nil {
				return err
			}
			f.checkpoints = append(f.checkpoints, c)
		case KindWrite, KindDiscard, KindZero:
			c := changeOf(g, fr)
			m.insert(c.start, c.end, c.loc)
		}
		return ctx.Err()
	}, func(err error) error { return err })
	f.extents = m.table()
	return f, err
}

// readableFile reads as zeroes what the disk cannot read, so that it fails its
// checksums as other damage does.
type readableFile struct{ vfs.File }

// ReadAt implements vfs.File.
func (f readableFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if n == len(p) || err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	for done := int64(0); done < int64(len(p)); {
		at := off + done
		piece := p[done:min(int64(len(p)), done+SectorBytes-at%SectorBytes)]
		n, err := f.File.ReadAt(piece, at)
		if errors.Is(err, io.EOF) {
			return int(done) + n, err
		}
		if n != len(piece) {
			clear(piece)
		}
		done += int64(len(piece))
	}
	return len(p), nil
}
