package journal

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// update rewrites what the encoders produce now below testdata:
//
//	go test ./journal -run TestGolden -update
//
// Files of a released version never change: an encoder that differs needs a
// new version, a new directory, and decoders for both.
var update = flag.Bool("update", false, "rewrite the golden files of the current format version")

var (
	goldenVolume = VolumeID{0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 1, 2, 3, 4, 5, 6, 7, 8}
	goldenTime   = time.Date(2026, 11, 22, 10, 41, 7, 123456789, time.UTC)
	goldenInfo   = CheckpointInfo{Group: "shop", Members: []VolumeID{goldenVolume, {0xff, 1}}}
)

const goldenLine = TimelineID(0x00c0ffee00c0ffee)

// golden is one structure of the format, with its encoder and its decoder.
type golden struct {
	file   string        // below testdata, in the directory of the version that introduced it
	encode func() []byte // nil: an older form, which is only read
	// decode returns what was read, to be compared with want.
	decode func(b []byte) (any, error)
	want   any
	// loose are offsets of bytes that no checksum covers.
	loose func(off int) bool
}

func goldenRecords() []Record {
	payload := bytes.Repeat([]byte("lockstep"), SectorBytes/8)
	info := goldenInfo.appendEncoded(nil)
	at := func(seq Seq) Position { return Position{goldenLine, seq} }
	return []Record{
		{Kind: KindWrite, Position: at(41), Offset: 4096, Length: SectorBytes, Payload: payload, PayloadCRC: PayloadChecksum(payload)},
		{Kind: KindDiscard, Position: at(42), Offset: 1 << 40, Length: maxExtentBytes, Payload: []byte{}},
		{Kind: KindZero, Position: at(43), Offset: 4096, Length: SectorBytes, Payload: []byte{}},
		{Kind: KindCheckpoint, Position: at(44), Offset: 7, Length: goldenTime.UnixNano(), Payload: info, PayloadCRC: PayloadChecksum(info)},
		{Kind: KindResize, Position: at(45), Length: 1 << 30, Payload: []byte{}},
	}
}

func goldenFooter() footer {
	at := func(seq Seq) Position { return Position{goldenLine, seq} }
	return footer{
		id: 3, timeline: goldenLine, first: 41, last: 45, end: 6000,
		extents: table{makeExtent(8, 9, makeLocation(3, 0)), makeExtent(16, 18, makeLocation(3, 4160))},
		checkpoints: []Checkpoint{
			{Number: 7, Time: goldenTime, CheckpointInfo: goldenInfo, Position: at(44)},
			{Number: 8, Time: goldenTime.Add(time.Second), CheckpointInfo: goldenInfo, Position: at(45)},
		},
	}
}

func goldens() []golden {
	var all []golden
	for _, r := range goldenRecords() {
		all = append(all, golden{
			file:   "v1/record-" + r.Kind.String() + ".bin",
			encode: func() []byte { return r.AppendEncoded(nil, goldenVolume) },
			decode: func(b []byte) (any, error) { got, _, err := DecodeRecord(b, goldenVolume); return got, err },
			want:   r,
		})
	}
	record := goldenRecords()[0]
	header := segmentHeader{volume: goldenVolume, id: 3, timeline: goldenLine, first: 41, bytes: MinSegmentBytes, created: goldenTime}
	rewritten := header
	rewritten.bytes, rewritten.generation = 3*blockBytes, 2
	f := goldenFooter()
	body, block := f.encode()
	oldState, oldEntry := goldenState(), goldenEntry()
	oldState.BaseBytes, oldState.Summed, oldEntry.Sizes = 0, 0, nil
	secondState := goldenState()
	secondState.Summed = 0
	withoutPayload := record
	withoutPayload.Payload = nil
	type frameHeader struct {
		Record
		payloadBytes int
		durable      Seq
	}
	return append(all,
		golden{"v1/frame-header.bin", func() []byte {
			b := make([]byte, frameHeaderBytes)
			putFrameHeader(b, &record, 40, goldenVolume)
			return b
		}, func(b []byte) (any, error) {
			r, n, durable, err := decodeFrameHeader(b, goldenVolume)
			return frameHeader{r, n, durable}, err
		}, frameHeader{withoutPayload, SectorBytes, 40}, nil},
		golden{"v1/segment-header.bin", header.encode, func(b []byte) (any, error) { return decodeSegmentHeader(b) }, header, nil},
		golden{"v1/checkpoint-info.bin", func() []byte { return goldenInfo.appendEncoded(nil) },
			func(b []byte) (any, error) { return decodeCheckpointInfo(b) }, goldenInfo, func(int) bool { return true }},
		golden{"v1/segment-footer.bin", func() []byte { return append(bytes.Clone(body), block...) }, decodeGoldenFooter, f, nil},
		golden{"v2/index-run.bin", func() []byte { return encodeGoldenRun(goldenRunTable()) }, decodeGoldenRun, goldenRunTable(), nil},
		golden{"v1/volume.json", nil, func(b []byte) (any, error) { return decodeIdentity(b) }, goldenIdentity(1), nil},
		golden{"v2/volume.json", nil, func(b []byte) (any, error) { return decodeIdentity(b) }, goldenIdentity(2), nil},
		golden{"v3/base-sums.bin", func() []byte { return goldenSums(goldenSectors()) }, decodeGoldenSums, goldenSectors(), nil},
		golden{"v3/volume.json", mustEncode(newIdentity(goldenVolume, goldenTime, "").encode),
			func(b []byte) (any, error) { return decodeIdentity(b) }, goldenIdentity(3), nil},
		golden{"v3/volume-own-journal.json", mustEncode(newIdentity(goldenVolume, goldenTime, goldenJournal).encode),
			func(b []byte) (any, error) { return decodeIdentity(b) }, goldenOwnJournal(), nil},
		golden{"v3/volume-overlay.json", mustEncode(goldenOverlay().encode),
			func(b []byte) (any, error) { return decodeIdentity(b) }, goldenOverlay(), nil},
		golden{"v3/journal.json", mustEncode(newJournalIdentity(goldenVolume, goldenJournal).encode),
			func(b []byte) (any, error) { return decodeJournalIdentity(b) }, goldenJournalIdentity(), nil},
		golden{"v3/segment-header.bin", rewritten.encode, func(b []byte) (any, error) { return decodeSegmentHeader(b) }, rewritten, nil},
		goldenValue("v3/catalog-segment.bin", bucketSegments, key64(3), goldenThinnedEntry(), decodeGoldenEntry),
		golden{"v1/catalog-state.bin", nil, func(b []byte) (any, error) { return decodeState(b) }, oldState, nil},
		golden{"v2/catalog-state.bin", nil, func(b []byte) (any, error) { return decodeState(b) }, secondState, nil},
		goldenValue("v3/catalog-state.bin", bucketMeta, keyState, goldenState(), func(b []byte) (any, error) { return decodeState(b) }),
		goldenValue("v3/catalog-scrub.bin", bucketMeta, keyScrub, goldenScrub(), func(b []byte) (any, error) { return decodeScrub(b) }),
		goldenValue("v3/catalog-damage.bin", bucketMeta, keyDamage, goldenDamage(), func(b []byte) (any, error) { return decodeDamage(b) }),
		goldenValue("v1/catalog-timeline.bin", bucketTimelines, key64(uint64(goldenLine)), goldenTimeline(), func(b []byte) (any, error) {
			return decodeTimeline(key64(uint64(goldenLine)), b)
		}),
		goldenValue("v1/catalog-segment.bin", bucketSegments, key64(3), oldEntry, decodeGoldenEntry),
		goldenValue("v2/catalog-segment.bin", bucketSegments, key64(3), goldenEntry(), decodeGoldenEntry),
		goldenValue("v1/catalog-pin.bin", bucketPins, []byte("nightly"), Position{goldenLine, 44}, func(b []byte) (any, error) {
			_, at, err := decodePin([]byte("nightly"), b)
			return at, err
		}),
	)
}

// goldenSectors are three sectors at the offset 2^40 of a base: text, zeroes, ones.
func goldenSectors() []byte {
	p := bytes.Repeat([]byte("lockstep"), SectorBytes/8)
	p = append(p, make([]byte, SectorBytes)...)
	return append(p, bytes.Repeat([]byte{0xff}, SectorBytes)...)
}

func goldenSums(sectors []byte) []byte {
	sums := newBaseSums(nil, goldenVolume)
	return bytes.Clone(sums.encode(&sumScratch{}, sectors, 1<<40))
}

// decodeGoldenSums returns the sectors that the entries must belong to.
func decodeGoldenSums(entries []byte) (any, error) {
	p := goldenSectors()
	if len(entries) != len(p)/SectorBytes*sumBytes {
		return nil, wireCorrupt("checksums", "3 entries", fmt.Sprintf("%d bytes", len(entries)))
	}
	sums := newBaseSums(nil, goldenVolume)
	if d := sums.firstDamage(&sumScratch{}, p, 1<<40, entries); d.length > 0 {
		return nil, d.err()
	}
	return p, nil
}

// decodeGoldenFooter reads a body with its trailer behind it.
func decodeGoldenFooter(b []byte) (any, error) {
	if len(b) < blockBytes {
		b = append(make([]byte, blockBytes-len(b)), b...)
	}
	split := len(b) - blockBytes
	t, err := decodeTrailer(b[split:], MinSegmentBytes)
	if err != nil {
		return nil, err
	}
	return t.decodeBody(b[:split])
}

func goldenRunTable() table {
	return table{
		makeExtent(8, 9, makeLocation(4, 0)), makeExtent(16, 18, makeLocation(5, 4160)), makeExtent(18, 20, makeLocation(7, 8240)),
	}
}

// encodeGoldenRun is the file of a run of goldenRunJob.
func encodeGoldenRun(extents table) []byte {
	mem := vfs.NewMem()
	f, err := mem.Create("run")
	if err != nil {
		panic(err)
	}
	w := newRunWriter(f, goldenVolume, goldenRunJob())
	err = errors.Join(w.copy(extents.cursor(), func(int64) error { return nil }), w.finish())
	size, sizeErr := f.Size()
	b := make([]byte, size)
	if err := errors.Join(err, sizeErr, readFull(f, b, 0)); err != nil {
		panic(err)
	}
	return b
}

// decodeGoldenRun reads a file and returns its extents, if the list of segments
// is the right one.
func decodeGoldenRun(b []byte) (any, error) {
	h, err := decodeRunHeader(b[:min(len(b), blockBytes)], int64(len(b)))
	if err != nil {
		return nil, err
	}
	fences, segments, err := decodeRunTail(&h, b[blockBytes*(1+h.blocks):])
	if err != nil {
		return nil, err
	}
	var all table
	for n := range h.blocks {
		if all, err = decodeRunBlock(all, b[blockBytes*(1+n):][:blockBytes], &h, n); err != nil {
			return nil, err
		}
		if fences[n] != all[len(all)-1].end() {
			return nil, wireCorrupt("fence", fmt.Sprint(all[len(all)-1].end()), fmt.Sprint(fences[n]))
		}
	}
	for i, part := range goldenRunJob().parts {
		if segments[i] != runSegmentOf(part.segment, part.last) {
			return nil, wireCorrupt("segment", fmt.Sprint(part.id), fmt.Sprintf("%+v", segments[i]))
		}
	}
	return all, nil
}

func decodeGoldenEntry(b []byte) (any, error) {
	_, e, err := decodeSegmentEntry(key64(3), b)
	return e, err
}

func goldenIdentity(version int) identity {
	id := identity{Format: identityFormat, Version: version, Volume: goldenVolume, Created: goldenTime}
	id.Checksum = id.checksum()
	return id
}

const goldenJournal = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"

func goldenOverlay() identity {
	id := goldenIdentity(3)
	id.Format, id.Origin, id.OriginAt = overlayFormat, VolumeID{0xff, 1}.String(), Position{goldenLine, 44}.String()
	id.Checksum = id.checksum()
	return id
}

func goldenOwnJournal() identity {
	id := goldenIdentity(3)
	id.Journal = goldenJournal
	id.Checksum = id.checksum()
	return id
}

func goldenJournalIdentity() journalIdentity {
	id := newJournalIdentity(goldenVolume, goldenJournal)
	id.Checksum = id.checksum()
	return id
}

func mustEncode(encode func() ([]byte, error)) func() []byte {
	return func() []byte {
		b, err := encode()
		if err != nil {
			panic(err)
		}
		return b
	}
}

func goldenState() catalogState {
	return catalogState{
		SizeBytes: 1 << 30, Active: goldenLine, Base: Position{goldenLine, 40},
		Horizon: Position{goldenLine, 41}, BaseBytes: 1 << 29, Summed: 1 << 28, CleanTip: &Position{goldenLine, 45},
	}
}

func goldenScrub() scrubState {
	return scrubState{Pass: 3, Began: goldenTime, Segment: 7, Base: 1 << 20, Bytes: 1 << 21, LastFull: goldenTime.Add(-time.Hour)}
}

func goldenDamage() damageList {
	return damageList{Places: []keptDamage{
		{File: baseFile, Offset: 8192, What: "sector", Wanted: "crc 00000001", Found: "crc 00000002"},
		{File: segmentName(7), Offset: 4160, What: "payload", Wanted: "crc 00000003", Found: "crc 00000004"},
	}}
}

func goldenTimeline() Timeline {
	return Timeline{ID: goldenLine, Parent: Position{1, 2}, Created: goldenTime, Reason: "rewind"}
}

func goldenEntry() segmentEntry {
	return segmentEntry{
		Timeline: goldenLine, First: 41, Last: 45, EndBytes: 6000, Bytes: MinSegmentBytes, ClosedAt: goldenTime,
		Sizes: []sizeChange{{Seq: 42, Bytes: 3 << 28}, {Seq: 45, Bytes: 1 << 30}},
	}
}

func goldenThinnedEntry() segmentEntry {
	e := goldenEntry()
	e.Bytes, e.Generation, e.Thinned = 3*blockBytes, 2, time.Minute
	return e
}

func goldenValue(file, bucket string, key []byte, value any, decode func(b []byte) (any, error)) golden {
	return golden{file, func() []byte {
		b, err := encodeValue(bucket, key, value)
		if err != nil {
			panic(err)
		}
		return b
	}, decode, value, nil}
}

// whole is the structure's bytes.
func (g *golden) whole(t *testing.T) []byte {
	t.Helper()
	if g.encode != nil {
		return g.encode()
	}
	b, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(g.file)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGolden: what earlier programs of this version wrote can be read, and
// what is written now is the same, byte by byte.
func TestGolden(t *testing.T) {
	for _, g := range goldens() {
		t.Run(g.file, func(t *testing.T) {
			name := filepath.Join("testdata", filepath.FromSlash(g.file))
			if *update && g.encode != nil {
				if err := os.WriteFile(name, g.encode(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			stored, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if g.encode == nil {
				// Only read.
			} else if now := g.encode(); !bytes.Equal(now, stored) {
				t.Errorf("the encoder writes\n%x\nthe golden file is\n%x", now, stored)
			}
			got, err := g.decode(stored)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, g.want) {
				t.Errorf("decoded %+v\nwant %+v", got, g.want)
			}
		})
	}
}

// TestDecodersRefuseTruncation cuts every structure at every byte.
func TestDecodersRefuseTruncation(t *testing.T) {
	for _, g := range goldens() {
		whole := g.whole(t)
		for n := range whole {
			if strings.HasSuffix(g.file, ".json") && n == len(whole)-1 {
				continue // without its last newline it is whole
			}
			if got, err := g.decode(whole[:n:n]); err == nil {
				t.Errorf("%s cut at %d of %d bytes was accepted: %+v", g.file, n, len(whole), got)
			}
		}
	}
}

// TestDecodersRefuseFlips flips every bit of every structure. What no checksum
// covers by itself is covered by that of what it is part of.
func TestDecodersRefuseFlips(t *testing.T) {
	for _, g := range goldens() {
		whole := g.whole(t)
		for i := range whole {
			for bit := range 8 {
				flipped := bytes.Clone(whole)
				flipped[i] ^= 1 << bit
				got, err := g.decode(flipped)
				if err == nil && (g.loose == nil || !g.loose(i)) && !reflect.DeepEqual(got, g.want) {
					t.Errorf("%s with bit %d of byte %d flipped was accepted: %+v", g.file, bit, i, got)
				}
			}
		}
	}
}
