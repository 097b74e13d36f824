package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// Buckets of the catalog, see docs/format.md. A value is the CRC32C of bucket,
// key and JSON, followed by the JSON.
const (
	bucketMeta      = "meta"
	bucketTimelines = "timelines"
	bucketSegments  = "segments"
	bucketPins      = "pins"
)

const (
	catalogSumBytes = 4
	maxValueBytes   = 64 << 10 // decoders refuse more
)

var (
	keyState  = []byte("state")
	keyScrub  = []byte("scrub")  // version 3; may be absent
	keyDamage = []byte("damage") // the same
)

// catalogState is the store's small mutable state.
type catalogState struct {
	SizeBytes int64
	Active    TimelineID
	// Base is the newest position whose records may be in the base image
	// only. Records up to it are in the base, or are being written there
	// again from the journal after a crash (see Destaging).
	Base Position
	// Horizon is the oldest position that can be opened. It is ahead of Base
	// while records between the two are being destaged.
	Horizon Position
	// BaseBytes is the volume's size at Base. A store of version 1 has none:
	// see assumeBaseBytes.
	BaseBytes int64 `json:",omitempty"`
	// Summed is how many bytes of the base, from its start, have checksums: all,
	// but in a store whose base an older program made, until the scrub has
	// been there.
	Summed int64 `json:",omitempty"`
	// CleanTip is the tip at the last clean Close, and absent from the first
	// change after Open on.
	CleanTip *Position `json:",omitempty"`
}

// segmentEntry is a sealed segment as the catalog knows it.
type segmentEntry struct {
	Timeline TimelineID
	First    Seq
	Last     Seq
	EndBytes int64
	Bytes    int64
	ClosedAt time.Time
	Sizes    []sizeChange `json:",omitempty"` // at most maxSegmentSizes
	// Generation and Thinned are those of a segment that thinning has
	// rewritten: which file it is, and the interval, in nanoseconds, of which
	// it has one checkpoint; 0: all records.
	Generation uint32        `json:",omitempty"`
	Thinned    time.Duration `json:",omitempty"`
}

// key64 is big endian, so that keys are in the order of their numbers.
func key64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func valueChecksum(bucket string, key, text []byte) uint32 {
	sum := crc32.Checksum([]byte(bucket), castagnoli)
	sum = crc32.Update(sum, castagnoli, []byte{0})
	sum = crc32.Update(sum, castagnoli, key)
	return crc32.Update(sum, castagnoli, text)
}

func encodeValue(bucket string, key []byte, value any) ([]byte, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode %s entry: %w", bucket, err)
	}
	if len(text) > maxValueBytes {
		return nil, fmt.Errorf("encode %s entry: %d bytes: %w", bucket, len(text), ErrRange)
	}
	return append(binary.LittleEndian.AppendUint32(nil, valueChecksum(bucket, key, text)), text...), nil
}

// decodeValue verifies a value and reads it into what a pointer points to. A
// field that is not known is refused: rewriting the value would drop it.
func decodeValue(bucket string, key, b []byte, into any) error {
	if len(b) < catalogSumBytes || len(b) > catalogSumBytes+maxValueBytes {
		return badValue(bucket, key, fmt.Sprintf("%d to %d bytes", catalogSumBytes, catalogSumBytes+maxValueBytes), len(b))
	}
	want, text := binary.LittleEndian.Uint32(b), b[catalogSumBytes:]
	if got := valueChecksum(bucket, key, text); got != want {
		return badValue(bucket, key, fmt.Sprintf("crc %08x", want), fmt.Sprintf("crc %08x", got))
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return badValue(bucket, key, "JSON of a known version", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return badValue(bucket, key, "one JSON value", "more")
	}
	return nil
}

func badValue(bucket string, key []byte, wanted string, found any) error {
	return &CorruptError{File: catalogFile, What: fmt.Sprintf("%s entry %q", bucket, key), Wanted: wanted, Found: fmt.Sprint(found)}
}

func decodeState(b []byte) (catalogState, error) {
	var s catalogState
	if err := decodeValue(bucketMeta, keyState, b, &s); err != nil {
		return catalogState{}, err
	}
	if s.SizeBytes <= 0 || s.SizeBytes%SectorBytes != 0 || s.SizeBytes > maxVolumeBytes ||
		s.Active == 0 || s.Base.Timeline == 0 || s.Horizon.Timeline == 0 {
		return catalogState{}, badValue(bucketMeta, keyState, "fields in range", fmt.Sprintf("%+v", s))
	}
	if s.BaseBytes < 0 || s.BaseBytes%SectorBytes != 0 || s.BaseBytes > s.SizeBytes {
		return catalogState{}, badValue(bucketMeta, keyState, "size of the base in range", s.BaseBytes)
	}
	if s.Summed < 0 || s.Summed%SectorBytes != 0 || s.Summed > s.SizeBytes {
		return catalogState{}, badValue(bucketMeta, keyState, "checksums of the base in range", s.Summed)
	}
	return s, nil
}

// grow gives the live volume a larger size. The base is zeroes from the old one
// on, and so are their checksums.
func (s *catalogState) grow(sizeBytes int64) {
	if s.Summed == s.SizeBytes {
		s.Summed = sizeBytes
	}
	s.SizeBytes = sizeBytes
}

// assumeBaseBytes gives a state of version 1, which knew no sizes of the past,
// the present size for all of it: that is what its positions had there.
func (s *catalogState) assumeBaseBytes() {
	if s.BaseBytes == 0 {
		s.BaseBytes = s.SizeBytes
	}
}

func decodeScrub(b []byte) (scrubState, error) {
	var st scrubState
	if b == nil {
		return st, nil
	}
	if err := decodeValue(bucketMeta, keyScrub, b, &st); err != nil {
		return scrubState{}, err
	}
	if st.Pass == 0 || st.Segment > maxSegmentID+1 || st.Base < 0 || st.Base > maxVolumeBytes || st.Base%SectorBytes != 0 || st.Bytes < 0 {
		return scrubState{}, badValue(bucketMeta, keyScrub, "fields in range", fmt.Sprintf("%+v", st))
	}
	return st, nil
}

func decodeTimeline(key, b []byte) (Timeline, error) {
	var t Timeline
	if err := decodeValue(bucketTimelines, key, b, &t); err != nil {
		return Timeline{}, err
	}
	if t.ID == 0 || !bytes.Equal(key, key64(uint64(t.ID))) || t.Parent.Timeline == t.ID || t.Parent.Timeline == 0 && t.Parent.Seq != 0 {
		return Timeline{}, badValue(bucketTimelines, key, "the timeline of the key", fmt.Sprintf("%+v", t))
	}
	return t, nil
}

func decodeSegmentEntry(key, b []byte) (segmentID, segmentEntry, error) {
	var e segmentEntry
	if err := decodeValue(bucketSegments, key, b, &e); err != nil {
		return 0, segmentEntry{}, err
	}
	bad := func(found any) (segmentID, segmentEntry, error) {
		return 0, segmentEntry{}, badValue(bucketSegments, key, "fields in range", found)
	}
	if len(key) != 8 {
		return bad(fmt.Sprintf("key of %d bytes", len(key)))
	}
	id := segmentID(binary.BigEndian.Uint64(key))
	if id == 0 || id > maxSegmentID || e.Timeline == 0 || e.First == 0 || e.Last < e.First ||
		e.Bytes < minBytesOf(e.Generation) || e.Bytes > MaxSegmentBytes || e.EndBytes < blockBytes || e.EndBytes > e.Bytes-blockBytes {
		return bad(fmt.Sprintf("%+v", e))
	}
	if e.Thinned < 0 || e.Thinned > 0 && e.Generation == 0 {
		return bad(fmt.Sprintf("thinned to %s in generation %d", e.Thinned, e.Generation))
	}
	if !e.sizesInRange() {
		return bad(fmt.Sprintf("sizes %+v", e.Sizes))
	}
	return id, e, nil
}

func (e *segmentEntry) sizesInRange() bool {
	last := sizeChange{Seq: e.First - 1}
	for _, c := range e.Sizes {
		if c.Seq <= last.Seq || c.Seq > e.Last || c.Bytes <= last.Bytes || c.Bytes%SectorBytes != 0 || c.Bytes > maxVolumeBytes {
			return false
		}
		last = c
	}
	return len(e.Sizes) <= maxSegmentSizes
}

func decodePin(key, b []byte) (string, Position, error) {
	var p Position
	if err := decodeValue(bucketPins, key, b, &p); err != nil {
		return "", Position{}, err
	}
	if len(key) == 0 || len(key) > maxPinNameBytes || p.Timeline == 0 {
		return "", Position{}, badValue(bucketPins, key, "fields in range", fmt.Sprintf("%+v", p))
	}
	return string(key), p, nil
}
