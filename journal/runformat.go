package journal

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path"
	"strconv"
	"strings"
)

// Layout of an index run, see docs/format.md: header block, blocks of extents,
// and the tail: what each block ends with, and the segments that were merged.
const (
	runExtentsPerBlock  = (blockBytes - runBlockHeaderBytes) / footerExtentBytes
	runBlockHeaderBytes = 16
	runFenceBytes       = 8
	runSegmentBytes     = 40
	maxRunLevel         = 64 - locationOffsetBits // all ids there can be
)

var runMagic = [8]byte{'L', 'S', 'I', 'N', 'D', 'E', 'X', 0}

// runKey names a run: the newest version of every sector that the segments with
// ids in [start, start+2^level) on the path to owner's last one among them
// changed. start is a multiple of 2^level.
type runKey struct {
	owner TimelineID
	start segmentID
	level uint8
}

func (k runKey) compare(other runKey) int {
	return cmp.Or(cmp.Compare(k.level, other.level), cmp.Compare(k.start, other.start), cmp.Compare(k.owner, other.owner))
}

func (k runKey) end() segmentID { return k.start + 1<<k.level }

func (k runKey) inRange() bool {
	return k.owner != 0 && k.level >= 1 && k.level <= maxRunLevel && k.start&(1<<k.level-1) == 0 && k.start <= maxSegmentID
}

const (
	runSuffix     = ".run"
	runTempSuffix = ".run.tmp" // of one that is being made, or whose making was interrupted
)

func (k runKey) name() string {
	return path.Join(journalDir, fmt.Sprintf("%016x-%016x-%02x%s", uint64(k.owner), uint64(k.start), k.level, runSuffix))
}

// parseRunName reads the base name of a run's file.
func parseRunName(base string) (runKey, bool) {
	text, ok := strings.CutSuffix(base, runSuffix)
	parts := strings.Split(text, "-")
	if !ok || len(parts) != 3 {
		return runKey{}, false
	}
	owner, err1 := strconv.ParseUint(parts[0], 16, 64)
	start, err2 := strconv.ParseUint(parts[1], 16, 64)
	level, err3 := strconv.ParseUint(parts[2], 16, 8)
	k := runKey{TimelineID(owner), segmentID(start), uint8(level)}
	ok = err1 == nil && err2 == nil && err3 == nil && k.inRange() && path.Base(k.name()) == base
	return k, ok
}

func isRunLeftover(base string) bool { return strings.HasSuffix(base, runTempSuffix) }

// runSegment says of which state of which segment a run has the extents. Ids
// can be used again by a program that knows no runs, and then another footer
// gives the run away.
type runSegment struct {
	id          segmentID
	timeline    TimelineID
	first, last Seq
	footerCRC   uint32 // of the footer's body
}

func runSegmentOf(g *segment, last Seq) runSegment {
	return runSegment{g.id, g.timeline, g.first, last, g.footerCRC}
}

// runHeader is the first block of a run.
type runHeader struct {
	volume    VolumeID
	key       runKey
	extents   int64
	blocks    int64
	segments  int64
	tailBytes int64
	listCRC   uint32 // of the list of segments
	tailCRC   uint32
}

// identity seeds the checksums of a run's blocks, so that a block of another
// run, or of this one made of other segments, fails.
func (h *runHeader) identity() uint32 {
	var b [40]byte
	copy(b[:], h.volume[:])
	binary.LittleEndian.PutUint64(b[16:], uint64(h.key.owner))
	binary.LittleEndian.PutUint64(b[24:], uint64(h.key.start))
	binary.LittleEndian.PutUint32(b[32:], uint32(h.key.level))
	binary.LittleEndian.PutUint32(b[36:], h.listCRC)
	return crc32.Checksum(b[:], castagnoli)
}

func (h *runHeader) encode() []byte {
	b := make([]byte, blockBytes)
	copy(b[16:], h.volume[:])
	binary.LittleEndian.PutUint64(b[32:], uint64(h.key.owner))
	binary.LittleEndian.PutUint64(b[40:], uint64(h.key.start))
	binary.LittleEndian.PutUint64(b[48:], uint64(h.key.level))
	binary.LittleEndian.PutUint64(b[56:], uint64(h.extents))
	binary.LittleEndian.PutUint64(b[64:], uint64(h.blocks))
	binary.LittleEndian.PutUint64(b[72:], uint64(h.segments))
	binary.LittleEndian.PutUint64(b[80:], uint64(h.tailBytes))
	binary.LittleEndian.PutUint32(b[88:], h.listCRC)
	binary.LittleEndian.PutUint32(b[92:], h.tailCRC)
	sealBlock(b, runMagic)
	return b
}

// decodeRunHeader reads the header of a file of so many bytes.
func decodeRunHeader(b []byte, fileBytes int64) (runHeader, error) {
	if err := openBlock(b, runMagic, "index run header"); err != nil {
		return runHeader{}, err
	}
	u64 := func(off int) int64 { return int64(binary.LittleEndian.Uint64(b[off:])) }
	h := runHeader{
		key:     runKey{owner: TimelineID(u64(32)), start: segmentID(u64(40)), level: uint8(min(uint64(u64(48)), 255))},
		extents: u64(56), blocks: u64(64), segments: u64(72), tailBytes: u64(80),
		listCRC: binary.LittleEndian.Uint32(b[88:]), tailCRC: binary.LittleEndian.Uint32(b[92:]),
	}
	copy(h.volume[:], b[16:])
	room := fileBytes - blockBytes
	ok := h.key.inRange() && h.blocks >= 0 && h.blocks <= room/blockBytes &&
		h.extents >= 0 && h.extents <= room/footerExtentBytes && h.blocks == blocksOf(h.extents) &&
		h.segments >= 1 && h.segments <= room/runSegmentBytes &&
		h.tailBytes == h.blocks*runFenceBytes+h.segments*runSegmentBytes && h.tailBytes == room-h.blocks*blockBytes
	if !ok {
		return runHeader{}, wireCorrupt("index run header", fmt.Sprintf("fields of a file of %d bytes", fileBytes), fmt.Sprintf("%+v", h))
	}
	return h, nil
}

func blocksOf(extents int64) int64 { return (extents + runExtentsPerBlock - 1) / runExtentsPerBlock }

// appendRunBlock appends the encoded block of up to runExtentsPerBlock extents.
func appendRunBlock(dst []byte, identity uint32, number int64, extents table) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, runBlockHeaderBytes)...)
	b := dst[at:]
	binary.LittleEndian.PutUint32(b[4:], uint32(len(extents)))
	binary.LittleEndian.PutUint64(b[8:], uint64(number))
	for _, e := range extents {
		dst = binary.LittleEndian.AppendUint64(dst, e.span)
		dst = binary.LittleEndian.AppendUint64(dst, uint64(e.loc))
	}
	dst = append(dst, make([]byte, at+blockBytes-len(dst))...)
	binary.LittleEndian.PutUint32(dst[at:], crc32.Update(identity, castagnoli, dst[at+4:]))
	return dst
}

// decodeRunBlock verifies a block and appends its extents to dst: ascending,
// disjoint, in segments of the run.
func decodeRunBlock(dst table, b []byte, h *runHeader, number int64) (table, error) {
	if len(b) != blockBytes {
		return nil, wireCorrupt("index run block", fmt.Sprintf("%d bytes", blockBytes), fmt.Sprint(len(b)))
	}
	want := binary.LittleEndian.Uint32(b)
	if got := crc32.Update(h.identity(), castagnoli, b[4:]); got != want {
		return nil, wireCorrupt("index run block", fmt.Sprintf("crc %08x", want), fmt.Sprintf("crc %08x", got))
	}
	count := int64(binary.LittleEndian.Uint32(b[4:]))
	if n := int64(binary.LittleEndian.Uint64(b[8:])); n != number || count != min(runExtentsPerBlock, h.extents-number*runExtentsPerBlock) {
		return nil, wireCorrupt("index run block", fmt.Sprintf("block %d of %d extents", number, h.extents), fmt.Sprintf("block %d with %d", n, count))
	}
	var end uint64
	for i := range count {
		x := b[runBlockHeaderBytes+i*footerExtentBytes:]
		e := extent{span: binary.LittleEndian.Uint64(x), loc: location(binary.LittleEndian.Uint64(x[8:]))}
		id := e.loc.segment()
		if e.sectors() == 0 || e.sectors() > e.end() || e.start() < end || id < h.key.start || id >= h.key.end() {
			return nil, wireCorrupt("index run block", "ascending extents of the run's segments", fmt.Sprintf("extent %d: %x %x", i, e.span, uint64(e.loc)))
		}
		end, dst = e.end(), append(dst, e)
	}
	return dst, nil
}

// encodeRunList returns the list of segments as the tail has it.
func encodeRunList(segments []runSegment) []byte {
	b := make([]byte, 0, len(segments)*runSegmentBytes)
	for _, g := range segments {
		b = binary.LittleEndian.AppendUint64(b, uint64(g.id))
		b = binary.LittleEndian.AppendUint64(b, uint64(g.timeline))
		b = binary.LittleEndian.AppendUint64(b, uint64(g.first))
		b = binary.LittleEndian.AppendUint64(b, uint64(g.last))
		b = binary.LittleEndian.AppendUint32(b, g.footerCRC)
		b = binary.LittleEndian.AppendUint32(b, 0)
	}
	return b
}

// encodeRunTail returns the tail: fences, list.
func encodeRunTail(fences []uint64, list []byte) []byte {
	b := make([]byte, 0, len(fences)*runFenceBytes+len(list))
	for _, end := range fences {
		b = binary.LittleEndian.AppendUint64(b, end)
	}
	return append(b, list...)
}

// decodeRunTail reads the tail that a header describes.
func decodeRunTail(h *runHeader, b []byte) (fences []uint64, segments []runSegment, err error) {
	bad := func(wanted, found string) ([]uint64, []runSegment, error) {
		return nil, nil, wireCorrupt("index run tail", wanted, found)
	}
	if int64(len(b)) != h.tailBytes {
		return bad(fmt.Sprintf("%d bytes", h.tailBytes), fmt.Sprint(len(b)))
	}
	if got := crc32.Checksum(b, castagnoli); got != h.tailCRC {
		return bad(fmt.Sprintf("crc %08x", h.tailCRC), fmt.Sprintf("crc %08x", got))
	}
	fences = make([]uint64, h.blocks)
	var end uint64
	for i := range fences {
		fences[i] = binary.LittleEndian.Uint64(b[i*runFenceBytes:])
		if fences[i] <= end {
			return bad("ascending ends of blocks", fmt.Sprintf("%d behind %d", fences[i], end))
		}
		end = fences[i]
	}
	list := b[h.blocks*runFenceBytes:]
	if got := crc32.Checksum(list, castagnoli); got != h.listCRC {
		return bad(fmt.Sprintf("list of segments with crc %08x", h.listCRC), fmt.Sprintf("crc %08x", got))
	}
	segments = make([]runSegment, h.segments)
	before := segmentID(0)
	for i := range segments {
		x := list[i*runSegmentBytes:]
		u64 := func(off int) uint64 { return binary.LittleEndian.Uint64(x[off:]) }
		g := runSegment{segmentID(u64(0)), TimelineID(u64(8)), Seq(u64(16)), Seq(u64(24)), binary.LittleEndian.Uint32(x[32:])}
		if g.id <= before || g.id < h.key.start || g.id >= h.key.end() || g.timeline == 0 || g.first == 0 || g.last < g.first || binary.LittleEndian.Uint32(x[36:]) != 0 {
			return bad("ascending segments in the run's range", fmt.Sprintf("%+v", g))
		}
		before, segments[i] = g.id, g
	}
	if segments[len(segments)-1].timeline != h.key.owner {
		return bad("a last segment of the owner's", fmt.Sprintf("%+v", segments[len(segments)-1]))
	}
	return fences, segments, nil
}
