package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"
)

// Layout of a segment file, see docs/format.md: header block, frames, and once
// sealed the footer (extents, checkpoints, infos) and in the last block the
// trailer.
const (
	blockBytes         = 4096
	blockFormatVersion = 1 // of the header blocks and trailers of all files
	footerExtentBytes  = 16
	footerPointBytes   = 32
	// MinSegmentBytes and MaxSegmentBytes bound Config.SegmentBytes.
	MinSegmentBytes = 256 << 10
	MaxSegmentBytes = maxSegmentBytes / 2
	// minRewrittenBytes is the smallest segment that thinning makes.
	minRewrittenBytes = 2 * blockBytes
)

var (
	segmentMagic = [8]byte{'L', 'S', 'S', 'E', 'G', 'M', 'T', 0}
	trailerMagic = [8]byte{'L', 'S', 'S', 'E', 'A', 'L', 'D', 0}
)

// segmentHeader is the first block of a segment.
type segmentHeader struct {
	volume   VolumeID
	id       segmentID
	timeline TimelineID
	first    Seq // seq of the first record
	bytes    int64
	created  time.Time
	// generation is how often thinning has rewritten what the segment stands
	// for; 0 as appended.
	generation uint32
}

// sealBlock writes magic, version and checksum around a block's fields, which
// begin at offset 16. The checksum covers all but the magic and itself.
func sealBlock(b []byte, magic [8]byte) {
	copy(b, magic[:])
	binary.LittleEndian.PutUint32(b[12:], blockFormatVersion)
	sealChecksum(b)
}

func sealChecksum(b []byte) {
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
}

// openBlock verifies what sealBlock wrote. Another magic, an unknown version
// and a wrong checksum are three different errors.
func openBlock(b []byte, magic [8]byte, what string) error {
	if len(b) != blockBytes {
		return wireCorrupt(what, fmt.Sprintf("%d bytes", blockBytes), fmt.Sprint(len(b)))
	}
	if !bytes.Equal(b[:8], magic[:]) {
		return wireCorrupt(what, fmt.Sprintf("magic %q", magic[:]), fmt.Sprintf("%q", b[:8]))
	}
	want := binary.LittleEndian.Uint32(b[8:])
	if got := crc32.Checksum(b[12:], castagnoli); got != want {
		return wireCorrupt(what, fmt.Sprintf("crc %08x", want), fmt.Sprintf("crc %08x", got))
	}
	if v := binary.LittleEndian.Uint32(b[12:]); v != blockFormatVersion {
		return &CorruptError{File: "wire", What: what, Wanted: fmt.Sprintf("version %d", blockFormatVersion), Found: fmt.Sprint(v), Kind: ErrVersion}
	}
	return nil
}

func (h *segmentHeader) encode() []byte {
	b := make([]byte, blockBytes)
	copy(b[16:], h.volume[:])
	binary.LittleEndian.PutUint64(b[32:], uint64(h.id))
	binary.LittleEndian.PutUint64(b[40:], uint64(h.timeline))
	binary.LittleEndian.PutUint64(b[48:], uint64(h.first))
	binary.LittleEndian.PutUint64(b[56:], uint64(h.bytes))
	binary.LittleEndian.PutUint64(b[64:], uint64(h.created.UnixNano()))
	binary.LittleEndian.PutUint32(b[72:], h.generation)
	sealBlock(b, segmentMagic)
	return b
}

func decodeSegmentHeader(b []byte) (segmentHeader, error) {
	if err := openBlock(b, segmentMagic, "segment header"); err != nil {
		return segmentHeader{}, err
	}
	h := segmentHeader{
		id:       segmentID(binary.LittleEndian.Uint64(b[32:])),
		timeline: TimelineID(binary.LittleEndian.Uint64(b[40:])),
		first:    Seq(binary.LittleEndian.Uint64(b[48:])),
		bytes:    int64(binary.LittleEndian.Uint64(b[56:])),
		created:  time.Unix(0, int64(binary.LittleEndian.Uint64(b[64:]))).UTC(),

		generation: binary.LittleEndian.Uint32(b[72:]),
	}
	copy(h.volume[:], b[16:])
	if h.id == 0 || h.id > maxSegmentID || h.timeline == 0 || h.first == 0 || h.bytes < minBytesOf(h.generation) || h.bytes > MaxSegmentBytes {
		return segmentHeader{}, wireCorrupt("segment header", "fields in range", fmt.Sprintf("%+v", h))
	}
	return h, nil
}

// minBytesOf is the smallest segment of a generation: one that thinning made has
// no more room than it needs.
func minBytesOf(generation uint32) int64 {
	if generation > 0 {
		return minRewrittenBytes
	}
	return MinSegmentBytes
}

// footer is what a sealed segment knows of its records.
type footer struct {
	id          segmentID
	timeline    TimelineID
	first, last Seq   // last >= first
	end         int64 // offset behind the last frame
	extents     table
	checkpoints []Checkpoint
}

// footerBytes bounds the room that the footer of a segment with so many
// records and checkpoints takes, trailer included: n records make at most
// 2n-1 disjoint extents.
func footerBytes(changes, checkpoints int, infoBytes int64) int64 {
	return int64(changes)*changeFooterBytes + int64(checkpoints)*footerPointBytes + infoBytes + 3*blockBytes
}

// changeFooterBytes is what one more change adds to footerBytes.
const changeFooterBytes = 2 * footerExtentBytes

// encode returns the footer body, to be written at offset(), and the trailer.
func (f *footer) encode() (body, trailer []byte) {
	body = make([]byte, 0, len(f.extents)*footerExtentBytes+len(f.checkpoints)*footerPointBytes)
	for _, e := range f.extents {
		body = binary.LittleEndian.AppendUint64(body, e.span)
		body = binary.LittleEndian.AppendUint64(body, uint64(e.loc))
	}
	var infos []byte
	var last []byte
	count := uint32(0)
	for i := range f.checkpoints {
		c := &f.checkpoints[i]
		info := c.appendEncoded(nil)
		if count == 0 || !bytes.Equal(info, last) {
			infos = binary.LittleEndian.AppendUint32(infos, uint32(len(info)))
			infos = append(infos, info...)
			last = info
			count++
		}
		body = binary.LittleEndian.AppendUint64(body, uint64(c.Number))
		body = binary.LittleEndian.AppendUint64(body, uint64(c.Time.UnixNano()))
		body = binary.LittleEndian.AppendUint64(body, uint64(c.Position.Seq))
		body = binary.LittleEndian.AppendUint64(body, uint64(count-1))
	}
	body = append(body, infos...)

	b := make([]byte, blockBytes)
	binary.LittleEndian.PutUint64(b[16:], uint64(f.id))
	binary.LittleEndian.PutUint64(b[24:], uint64(f.timeline))
	binary.LittleEndian.PutUint64(b[32:], uint64(f.first))
	binary.LittleEndian.PutUint64(b[40:], uint64(f.last))
	binary.LittleEndian.PutUint64(b[48:], uint64(f.end))
	binary.LittleEndian.PutUint64(b[56:], uint64(f.offset()))
	binary.LittleEndian.PutUint64(b[64:], uint64(len(body)))
	binary.LittleEndian.PutUint64(b[72:], uint64(len(f.extents)))
	binary.LittleEndian.PutUint64(b[80:], uint64(len(f.checkpoints)))
	binary.LittleEndian.PutUint64(b[88:], uint64(count))
	binary.LittleEndian.PutUint32(b[96:], crc32.Checksum(body, castagnoli))
	sealBlock(b, trailerMagic)
	return body, b
}

// offset is where the footer begins: the first block behind the frames.
func (f *footer) offset() int64 { return (f.end + blockBytes - 1) &^ (blockBytes - 1) }

// trailer is the decoded last block of a sealed segment.
type trailer struct {
	footer            // without extents and checkpoints
	offset, bodyBytes int64
	nExtents, nPoints int64
	nInfos            int64
	bodyCRC           uint32
}

func decodeTrailer(b []byte, segmentBytes int64) (trailer, error) {
	if err := openBlock(b, trailerMagic, "segment trailer"); err != nil {
		return trailer{}, err
	}
	u64 := func(off int) int64 { return int64(binary.LittleEndian.Uint64(b[off:])) }
	t := trailer{
		footer: footer{id: segmentID(u64(16)), timeline: TimelineID(u64(24)), first: Seq(u64(32)), last: Seq(u64(40)), end: u64(48)},
		offset: u64(56), bodyBytes: u64(64), nExtents: u64(72), nPoints: u64(80), nInfos: u64(88),
		bodyCRC: binary.LittleEndian.Uint32(b[96:]),
	}
	room := segmentBytes - blockBytes
	ok := t.end >= blockBytes && t.end <= room && t.offset == t.footer.offset() &&
		t.bodyBytes >= 0 && t.bodyBytes <= room-t.offset &&
		t.nExtents >= 0 && t.nExtents <= t.bodyBytes/footerExtentBytes &&
		t.nPoints >= 0 && t.nPoints <= t.bodyBytes/footerPointBytes &&
		t.nInfos >= 0 && t.nInfos <= t.nPoints &&
		t.nExtents*footerExtentBytes+t.nPoints*footerPointBytes <= t.bodyBytes &&
		t.first > 0 && t.last >= t.first
	if !ok {
		return trailer{}, wireCorrupt("segment trailer", "fields in range", fmt.Sprintf("%+v", t))
	}
	return t, nil
}

// decodeBody reads the footer that a trailer describes. Every extent must lie
// between the header and the end of the frames of this segment.
func (t *trailer) decodeBody(body []byte) (footer, error) {
	if int64(len(body)) != t.bodyBytes {
		return footer{}, wireCorrupt("segment footer", fmt.Sprintf("%d bytes", t.bodyBytes), fmt.Sprint(len(body)))
	}
	if got := crc32.Checksum(body, castagnoli); got != t.bodyCRC {
		return footer{}, wireCorrupt("segment footer", fmt.Sprintf("crc %08x", t.bodyCRC), fmt.Sprintf("crc %08x", got))
	}
	f := t.footer
	f.extents = make(table, t.nExtents)
	var end uint64
	for i := range f.extents {
		b := body[i*footerExtentBytes:]
		e := extent{span: binary.LittleEndian.Uint64(b), loc: location(binary.LittleEndian.Uint64(b[8:]))}
		stop := e.loc.fileOffset() + int64(e.sectors())*SectorBytes
		if e.sectors() == 0 || e.sectors() > e.end() || e.start() < end || e.loc.segment() != f.id || !e.loc.isZeroes() && (e.loc.fileOffset() < blockBytes || stop > f.end) {
			return footer{}, wireCorrupt("segment footer", "ascending extents inside the segment", fmt.Sprintf("extent %d: %x %x", i, e.span, uint64(e.loc)))
		}
		end, f.extents[i] = e.end(), e
	}
	points := body[t.nExtents*footerExtentBytes:]
	infos, err := decodeInfos(points[t.nPoints*footerPointBytes:], t.nInfos)
	if err != nil {
		return footer{}, err
	}
	f.checkpoints = make([]Checkpoint, t.nPoints)
	for i := range f.checkpoints {
		b := points[i*footerPointBytes:]
		info := binary.LittleEndian.Uint64(b[24:])
		seq := Seq(binary.LittleEndian.Uint64(b[16:]))
		if info >= uint64(len(infos)) || seq < f.first || seq > f.last {
			return footer{}, wireCorrupt("segment footer", "checkpoints inside the segment", fmt.Sprintf("checkpoint %d", i))
		}
		f.checkpoints[i] = Checkpoint{
			Number:         CheckpointNumber(binary.LittleEndian.Uint64(b)),
			Time:           time.Unix(0, int64(binary.LittleEndian.Uint64(b[8:]))).UTC(),
			CheckpointInfo: infos[info],
			Position:       Position{f.timeline, seq},
		}
	}
	return f, nil
}

func decodeInfos(b []byte, count int64) ([]CheckpointInfo, error) {
	infos := make([]CheckpointInfo, 0, min(count, int64(len(b)/8)))
	for range count {
		if len(b) < 4 || int64(len(b)) < 4+int64(binary.LittleEndian.Uint32(b)) {
			return nil, wireCorrupt("segment footer", "checkpoint infos", fmt.Sprintf("%d bytes", len(b)))
		}
		n := 4 + int(binary.LittleEndian.Uint32(b))
		info, err := decodeCheckpointInfo(b[4:n])
		if err != nil {
			return nil, err
		}
		infos, b = append(infos, info), b[n:]
	}
	if len(b) > 0 {
		return nil, wireCorrupt("segment footer", "nothing behind the checkpoint infos", fmt.Sprintf("%d bytes", len(b)))
	}
	return infos, nil
}
