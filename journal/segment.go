package journal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// change notes where a record of an unsealed segment put its extent; sealed
// segments have the same in their footer, newest version only.
type change struct {
	seq        Seq
	start, end uint64 // sectors
	loc        location
}

// segment is one file of the journal. Identity and file never change; the
// rest is guarded by Store.mu.
type segment struct {
	id       segmentID
	volume   VolumeID
	timeline TimelineID
	first    Seq
	bytes    int64
	name     string // path below the store's directory
	file     vfs.File
	syncMu   sync.Mutex // see Store.syncFile

	last        Seq   // first-1 while empty
	end         int64 // file offset behind the last frame
	changes     []change
	infoBytes   int64 // of the checkpoints' payloads
	checkpoints []Checkpoint
	times       pointTimes // of checkpoints
	// inherited is set for one that an owner had open who did not close the
	// store; see disinherit.
	inherited bool
	sizes     []sizeChange // ascending in both fields
	sealed    bool
	extents   int       // in the footer, once sealed
	footerCRC uint32    // of the footer's body, once sealed
	closedAt  time.Time // when the last record was appended, or nearly
	// generation and thinned never change; see segmentEntry.
	generation uint32
	thinned    time.Duration

	// users counts the store itself and everyone who may read the file. Who
	// brings it to zero recycles the file.
	users atomic.Int64
}

func (g *segment) empty() bool { return g.last < g.first }

// note adds an appended record to the segment's state.
func (g *segment) note(r *Record, off int64) {
	g.last, g.end = r.Position.Seq, off+frameBytes(len(r.Payload))
	switch r.Kind {
	case KindWrite:
		g.changes = append(g.changes, extentOf(r, makeLocation(g.id, off+frameHeaderBytes)))
	case KindDiscard, KindZero:
		g.changes = append(g.changes, extentOf(r, makeLocation(g.id, 0)))
	}
}

func extentOf(r *Record, loc location) change {
	return change{r.Position.Seq, uint64(r.Offset) / SectorBytes, uint64(r.Offset+r.Length) / SectorBytes, loc}
}

// changeOf is what a scanned frame changed.
func changeOf(g *segment, f *frame) change {
	if f.Kind == KindWrite {
		return extentOf(&f.Record, makeLocation(g.id, f.payloadOffset()))
	}
	return extentOf(&f.Record, makeLocation(g.id, 0))
}

// noteCheckpoint adds a checkpoint whose record was noted.
func (g *segment) noteCheckpoint(c Checkpoint, payloadBytes int) {
	g.infoBytes += infoRoomBytes(payloadBytes)
	g.checkpoints = append(g.checkpoints, c)
	g.times.add(c.Time, g.thinned)
}

// infoRoomBytes is what a checkpoint's payload takes in the footer at most:
// equal neighbours share one copy there.
func infoRoomBytes(payloadBytes int) int64 { return int64(payloadBytes) + 4 }

// fits reports whether the segment has room for r and then for its footer.
func (g *segment) fits(r *Record) bool {
	if r.Kind == KindResize && len(g.sizes) == maxSegmentSizes {
		return false
	}
	changes, points, infos := len(g.changes)+1, len(g.checkpoints), g.infoBytes
	if r.Kind == KindCheckpoint {
		points, infos = points+1, infos+infoRoomBytes(len(r.Payload))
	}
	return g.end+frameBytes(len(r.Payload))+footerBytes(changes, points, infos) <= g.bytes
}

// freeBytes is the room for further frames and what they add to the footer.
func (g *segment) freeBytes() int64 {
	return g.bytes - g.end - footerBytes(len(g.changes), len(g.checkpoints), g.infoBytes)
}

// tableUpTo returns the newest-wins extents of the records with seq <= upTo.
// The segment must be held by the caller.
func (g *segment) tableUpTo(snap segmentSnapshot, upTo Seq) (table, error) {
	switch {
	case !snap.sealed:
		m := newExtentMap()
		for _, c := range snap.changes {
			if c.seq <= upTo {
				m.insert(c.start, c.end, c.loc)
			}
		}
		return m.table(), nil
	case upTo >= snap.last:
		f, err := g.readFooter()
		return f.extents, err
	default:
		return g.scanTable(snap, upTo)
	}
}

// scanTable builds the table of a part of a sealed segment from its frames.
func (g *segment) scanTable(snap segmentSnapshot, upTo Seq) (table, error) {
	m := newExtentMap()
	scanner := newFrameScanner(g, snap.end)
	for scanner.next <= upTo {
		f, err := scanner.scan()
		if errors.Is(err, io.EOF) || err == nil && f.Position.Seq > upTo {
			break
		}
		if err != nil {
			return nil, err
		}
		switch f.Kind {
		case KindWrite, KindDiscard, KindZero:
			c := changeOf(g, &f)
			m.insert(c.start, c.end, c.loc)
		}
	}
	return m.table(), nil
}

// segmentSnapshot is a segment's state at one moment, safe to use unlocked.
type segmentSnapshot struct {
	*segment
	last    Seq
	end     int64
	changes []change
	sealed  bool
}

// snapshot must be called with Store.mu held.
func (g *segment) snapshot() segmentSnapshot {
	return segmentSnapshot{g, g.last, g.end, g.changes, g.sealed}
}

// entry describes a complete segment for the catalog. Store.mu must be held.
func (g *segment) entry(snap segmentSnapshot) segmentEntry {
	return segmentEntry{
		Timeline: g.timeline, First: g.first, Last: snap.last, EndBytes: snap.end, Bytes: g.bytes,
		ClosedAt: g.closedAt.UTC(), Sizes: g.sizes, Generation: g.generation, Thinned: g.thinned,
	}
}

// makeFooter computes the footer of an unsealed segment. Nobody appends to it
// any more.
func (g *segment) makeFooter(snap segmentSnapshot) (footer, error) {
	extents, err := g.tableUpTo(snap, snap.last)
	return footer{
		id: g.id, timeline: g.timeline, first: g.first, last: snap.last, end: snap.end,
		extents: extents, checkpoints: g.checkpoints,
	}, err
}

// writeFooter writes a segment's footer, which nobody else knows of before it
// is sealed; not durable.
func (g *segment) writeFooter(f footer) error {
	body, trailer := f.encode()
	g.extents, g.footerCRC = len(f.extents), crc32.Checksum(body, castagnoli)
	if f.offset()+int64(len(body)) > g.bytes-blockBytes {
		return fmt.Errorf("seal segment %s: footer of %d bytes at %d does not fit", g.name, len(body), f.offset())
	}
	if _, err := g.file.WriteAt(body, f.offset()); err != nil {
		return fmt.Errorf("seal segment %s: %w", g.name, err)
	}
	if _, err := g.file.WriteAt(trailer, g.bytes-blockBytes); err != nil {
		return fmt.Errorf("seal segment %s: %w", g.name, err)
	}
	return nil
}

// checkHeader verifies the header of a segment that the catalog knows.
func (g *segment) checkHeader() error {
	block := make([]byte, blockBytes)
	if err := readFull(g.file, block, 0); err != nil {
		return fmt.Errorf("read header: %w", unread(g.name, 0, err))
	}
	h, err := decodeSegmentHeader(block)
	if err != nil {
		return locate(err, g.name, 0)
	}
	if h.volume != g.volume {
		return foreignSegment(g.name, g.volume, h.volume)
	}
	if h.id != g.id || h.timeline != g.timeline || h.first != g.first || h.bytes != g.bytes || h.generation != g.generation {
		return &CorruptError{File: g.name, What: "segment header",
			Wanted: fmt.Sprintf("segment %d of %s from %d, %d bytes, generation %d", g.id, g.timeline, g.first, g.bytes, g.generation),
			Found:  fmt.Sprintf("segment %d of %s from %d, %d bytes, generation %d", h.id, h.timeline, h.first, h.bytes, h.generation)}
	}
	return nil
}

func foreignSegment(name string, wanted, found VolumeID) error {
	return &CorruptError{File: name, What: "segment header", Wanted: "volume " + wanted.String(), Found: found.String(), Kind: ErrForeign}
}

// readFooter reads and verifies a sealed segment's footer.
func (g *segment) readFooter() (footer, error) {
	t, err := g.readTrailer()
	if err != nil {
		return footer{}, err
	}
	return g.readFooterBody(&t)
}

// readTrailer reads and verifies a sealed segment's last block.
func (g *segment) readTrailer() (trailer, error) {
	at := g.bytes - blockBytes
	block := make([]byte, blockBytes)
	if err := readFull(g.file, block, at); err != nil {
		return trailer{}, fmt.Errorf("read trailer: %w", unread(g.name, at, err))
	}
	t, err := decodeTrailer(block, g.bytes)
	if err != nil {
		return trailer{}, locate(err, g.name, at)
	}
	if t.id != g.id || t.timeline != g.timeline || t.first != g.first {
		return trailer{}, &CorruptError{File: g.name, Offset: at, What: "segment trailer",
			Wanted: fmt.Sprintf("segment %d of %s from %d", g.id, g.timeline, g.first),
			Found:  fmt.Sprintf("segment %d of %s from %d", t.id, t.timeline, t.first)}
	}
	return t, nil
}

// readFooterBody reads and verifies what a trailer describes.
func (g *segment) readFooterBody(t *trailer) (footer, error) {
	body := make([]byte, t.bodyBytes)
	if err := readFull(g.file, body, t.offset); err != nil {
		return footer{}, fmt.Errorf("read footer: %w", unread(g.name, t.offset, err))
	}
	f, err := t.decodeBody(body)
	if err != nil {
		return footer{}, locate(err, g.name, t.offset)
	}
	return f, nil
}
