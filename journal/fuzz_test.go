package journal

import (
	"bytes"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// seedCorpus adds the golden files of every version whose names match.
func seedCorpus(f *testing.F, pattern string) {
	f.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", "v*", pattern))
	if err != nil || len(names) == 0 {
		f.Fatalf("no golden files match %s: %v", pattern, err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
}

// FuzzDecodeRecord: what is accepted is encoded to the same bytes.
func FuzzDecodeRecord(f *testing.F) {
	seedCorpus(f, "record-*.bin")
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, err := DecodeRecord(b, goldenVolume)
		if err == nil && !bytes.Equal(r.AppendEncoded(nil, goldenVolume), b[:n]) {
			t.Fatalf("%+v is encoded differently", r)
		}
		// Behind the checksum: the fields alone must not lead astray.
		if len(b) >= RecordHeaderBytes {
			fixed := bytes.Clone(b)
			putChecksum(fixed, headerChecksum(fixed[4:RecordHeaderBytes], goldenVolume))
			r, n, err := DecodeRecord(fixed, goldenVolume)
			if err == nil && !bytes.Equal(r.AppendEncoded(nil, goldenVolume), fixed[:n]) {
				t.Fatalf("%+v is encoded differently", r)
			}
		}
	})
}

func putChecksum(b []byte, sum uint32) {
	for i := range 4 {
		b[i] = byte(sum >> (8 * i))
	}
}

func FuzzFrameHeader(f *testing.F) {
	seedCorpus(f, "frame-header.bin")
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, durable, err := decodeFrameHeader(b, goldenVolume)
		if err != nil {
			return
		}
		if n < 0 || n > MaxPayloadBytes || durable >= r.Position.Seq {
			t.Fatalf("accepted %+v with %d bytes, durable %d", r, n, durable)
		}
	})
}

// blockOf makes a block of any bytes pass the checksum.
func blockOf(b []byte, magic [8]byte) []byte {
	block := make([]byte, blockBytes)
	copy(block, b)
	sealBlock(block, magic)
	return block
}

func FuzzSegmentHeader(f *testing.F) {
	seedCorpus(f, "segment-header.bin")
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeSegmentHeader(b)
		h, err := decodeSegmentHeader(blockOf(b, segmentMagic))
		if err != nil {
			return
		}
		again, err := decodeSegmentHeader(h.encode())
		if err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("%+v became %+v, %v", h, again, err)
		}
	})
}

// FuzzSegmentFooter takes a body with a trailer behind it.
func FuzzSegmentFooter(f *testing.F) {
	seedCorpus(f, "segment-footer.bin")
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeGoldenFooter(b)
		split := max(0, len(b)-blockBytes)
		body, block := b[:split], blockOf(b[split:], trailerMagic)
		tr, err := decodeTrailer(block, MinSegmentBytes)
		if err != nil {
			return
		}
		tr.bodyBytes, tr.bodyCRC = int64(len(body)), PayloadChecksum(body)
		if tr.nExtents > tr.bodyBytes/footerExtentBytes || tr.nPoints > tr.bodyBytes/footerPointBytes ||
			tr.nExtents*footerExtentBytes+tr.nPoints*footerPointBytes > tr.bodyBytes {
			return // decodeTrailer has refused it with the real length
		}
		foot, err := tr.decodeBody(body)
		if err != nil {
			return
		}
		var end uint64
		for _, e := range foot.extents {
			if e.start() < end || e.end() <= e.start() || e.loc.segment() != foot.id {
				t.Fatalf("accepted extents %v", foot.extents)
			}
			end = e.end()
		}
	})
}

// FuzzIndexRun takes the file of a run and makes its checksums right, so that
// the fields alone must not lead astray.
func FuzzIndexRun(f *testing.F) {
	seedCorpus(f, "index-run.bin")
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeGoldenRun(b)
		if len(b) < blockBytes {
			return
		}
		b = bytes.Clone(b)
		h, err := decodeRunHeader(blockOf(b[:blockBytes], runMagic), int64(len(b)))
		if err != nil {
			return
		}
		tail := b[blockBytes*(1+h.blocks):]
		h.tailCRC, h.listCRC = PayloadChecksum(tail), PayloadChecksum(tail[h.blocks*runFenceBytes:])
		if again, err := decodeRunHeader(h.encode(), int64(len(b))); err != nil || again != h {
			t.Fatalf("%+v became %+v, %v", h, again, err)
		}
		if _, segments, err := decodeRunTail(&h, tail); err == nil && (len(segments) == 0 || segments[0].id < h.key.start) {
			t.Fatalf("accepted %+v of %+v", segments, h)
		}
		for n := range h.blocks {
			block := b[blockBytes*(1+n):][:blockBytes]
			putChecksum(block, crc32.Update(h.identity(), castagnoli, block[4:]))
			extents, err := decodeRunBlock(nil, block, &h, n)
			if err != nil {
				continue
			}
			var end uint64
			for _, e := range extents {
				if e.start() < end || e.end() <= e.start() || e.loc.segment() < h.key.start || e.loc.segment() >= h.key.end() {
					t.Fatalf("accepted extents %v", extents)
				}
				end = e.end()
			}
		}
	})
}

func FuzzCheckpointInfo(f *testing.F) {
	seedCorpus(f, "checkpoint-info.bin")
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := decodeCheckpointInfo(b)
		if err == nil && !bytes.Equal(info.appendEncoded(nil), b) {
			t.Fatalf("%+v is encoded differently", info)
		}
	})
}

// FuzzCatalogValue gives any JSON a right checksum.
func FuzzCatalogValue(f *testing.F) {
	seedCorpus(f, "catalog-*.bin")
	f.Fuzz(func(t *testing.T, b []byte) {
		text := b[min(len(b), catalogSumBytes):]
		key := key64(uint64(goldenLine))
		sealed := func(bucket string, key []byte) []byte {
			v := make([]byte, catalogSumBytes)
			putChecksum(v, valueChecksum(bucket, key, text))
			return append(v, text...)
		}
		if s, err := decodeState(sealed(bucketMeta, keyState)); err == nil && (s.SizeBytes <= 0 || s.Active == 0) {
			t.Fatalf("accepted %+v", s)
		}
		if l, err := decodeTimeline(key, sealed(bucketTimelines, key)); err == nil && l.ID != goldenLine {
			t.Fatalf("accepted %+v", l)
		}
		if _, e, err := decodeSegmentEntry(key64(3), sealed(bucketSegments, key64(3))); err == nil && (e.Last < e.First || e.EndBytes > e.Bytes) {
			t.Fatalf("accepted %+v", e)
		}
		if _, p, err := decodePin([]byte("nightly"), sealed(bucketPins, []byte("nightly"))); err == nil && p.Timeline == 0 {
			t.Fatalf("accepted %+v", p)
		}
		if st, err := decodeScrub(sealed(bucketMeta, keyScrub)); err == nil && (st.Pass == 0 || st.Base < 0 || st.Base%SectorBytes != 0 || st.Bytes < 0) {
			t.Fatalf("accepted scrub %+v", st)
		}
		if l, err := decodeDamage(sealed(bucketMeta, keyDamage)); err == nil && len(l.Places) > maxKeptDamage {
			t.Fatalf("accepted %d places", len(l.Places))
		}
		_, _ = decodeState(b)
	})
}

// FuzzBaseSums takes any entries for any sectors: what is accepted is what would
// have been written.
func FuzzBaseSums(f *testing.F) {
	f.Add(goldenSums(goldenSectors()), goldenSectors(), int64(1<<40))
	f.Add([]byte{0, 0, 0, 0}, make([]byte, SectorBytes), int64(0))
	f.Fuzz(func(t *testing.T, entries, p []byte, off int64) {
		n := min(len(entries)/sumBytes, len(p)/SectorBytes)
		entries, p, off = entries[:n*sumBytes], p[:n*SectorBytes], off&(maxVolumeBytes-1)&^(SectorBytes-1)
		sums := newBaseSums(nil, goldenVolume)
		d := sums.firstDamage(&sumScratch{}, p, off, entries)
		right := sums.encode(&sumScratch{}, p, off)
		if (d.length == 0) != bytes.Equal(right, entries) {
			t.Fatalf("damage %+v of entries %x, right are %x", d, entries, right)
		}
		if d.length > 0 && (d.off < off || d.off+d.length > off+int64(len(p)) || d.wanted == d.found) {
			t.Fatalf("damage %+v of %d bytes at %d", d, len(p), off)
		}
	})
}
