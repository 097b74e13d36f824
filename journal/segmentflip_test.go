package journal

import (
	"bytes"
	"errors"
	"reflect"
	"strconv"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// smallSegment is a sealed segment of a few short records.
func smallSegment(t *testing.T) (*segment, []Record) {
	t.Helper()
	mem := vfs.NewMem()
	file, err := mem.Create("segment")
	if err == nil {
		err = file.Truncate(MinSegmentBytes)
	}
	if err != nil {
		t.Fatal(err)
	}
	g := &segment{id: 3, volume: goldenVolume, timeline: goldenLine, first: 41, last: 40, bytes: MinSegmentBytes, name: "segment", file: file, end: blockBytes}
	h := segmentHeader{volume: g.volume, id: g.id, timeline: g.timeline, first: g.first, bytes: g.bytes, created: goldenTime}
	write := func(b []byte, off int64) {
		if _, err := file.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	write(h.encode(), 0)
	records := goldenRecords()
	for i := range records {
		r := &records[i]
		b := make([]byte, frameBytes(len(r.Payload)))
		putFrameHeader(b, r, r.Position.Seq-1, g.volume)
		copy(b[frameHeaderBytes:], r.Payload)
		write(b, g.end)
		g.note(r, g.end)
		if r.Kind == KindCheckpoint {
			c, err := checkpointOf(r)
			if err != nil {
				t.Fatal(err)
			}
			g.noteCheckpoint(c, len(r.Payload))
		}
	}
	f, err := g.makeFooter(g.snapshot())
	if err == nil {
		err = g.writeFooter(f)
	}
	if err != nil {
		t.Fatal(err)
	}
	g.sealed = true
	return g, records
}

// scanAll returns the records that can be read before the first error, and
// whether that was one that says what is wrong.
func scanAll(g *segment) ([]Record, error) {
	var got []Record
	scanner := newFrameScanner(g, g.end)
	for scanner.next <= g.last {
		f, err := scanner.scan()
		if err != nil {
			return got, err
		}
		f.Payload = append([]byte{}, f.Payload...)
		got = append(got, f.Record)
	}
	return got, nil
}

// checkSegment makes sure that what a damaged segment yields is right as far
// as it goes, and that the rest is an error of the right kind.
func checkSegment(t *testing.T, g *segment, records []Record, want footer, damage string) (noticed bool) {
	t.Helper()
	got, err := scanAll(g)
	if err != nil && !errors.Is(err, ErrCorrupt) {
		t.Fatalf("%s: scan: %v", damage, err)
	}
	if len(got) > len(records) || !reflect.DeepEqual(got, records[:len(got)]) && len(got) > 0 {
		t.Fatalf("%s: scanned %+v", damage, got)
	}
	noticed = err != nil
	if err := g.checkHeader(); err != nil {
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			t.Fatalf("%s: header: %v", damage, err)
		}
		noticed = true
	}
	f, err := g.readFooter()
	switch {
	case err == nil:
		if !reflect.DeepEqual(f, want) {
			t.Fatalf("%s: footer %+v", damage, f)
		}
	case errors.Is(err, ErrCorrupt) || errors.Is(err, ErrVersion):
		noticed = true
	default:
		t.Fatalf("%s: footer: %v", damage, err)
	}
	return noticed
}

// TestSegmentWithEveryByteFlipped: nothing wrong is read, and what is not
// noticed is padding.
func TestSegmentWithEveryByteFlipped(t *testing.T) {
	g, records := smallSegment(t)
	want, err := g.readFooter()
	if err != nil {
		t.Fatal(err)
	}
	image := make([]byte, g.bytes)
	if err := readFull(g.file, image, 0); err != nil {
		t.Fatal(err)
	}
	footerAt := int(want.offset())
	body, _ := want.encode()
	padding := func(i int) bool {
		inFrames := i >= blockBytes && i < int(g.end)
		inFooter := i >= footerAt && i < footerAt+len(body)
		inBlocks := i < blockBytes || i >= int(g.bytes)-blockBytes
		return !inFrames && !inFooter && !inBlocks
	}
	unnoticed := 0
	for i := range image {
		if padding(i) && i > int(g.end)+64 && i%4099 != 0 {
			continue // a sample of the unused room is enough
		}
		flip := []byte{image[i] ^ 0xff}
		if _, err := g.file.WriteAt(flip, int64(i)); err != nil {
			t.Fatal(err)
		}
		if !checkSegment(t, g, records, want, "flip of byte "+strconv.Itoa(i)) && !padding(i) {
			unnoticed++ // padding of a frame to 8 bytes
		}
		if _, err := g.file.WriteAt(image[i:i+1], int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	if unnoticed > len(records)*(frameAlign-1) {
		t.Fatalf("%d flipped bytes were not noticed", unnoticed)
	}
}

// TestSegmentCutAtEveryByte zeroes the segment from every byte on, as a torn
// write or a lost block would.
func TestSegmentCutAtEveryByte(t *testing.T) {
	g, records := smallSegment(t)
	want, err := g.readFooter()
	if err != nil {
		t.Fatal(err)
	}
	zeroes := make([]byte, g.bytes)
	for end := want.offset() + 512; end > 0; end-- {
		if _, err := g.file.WriteAt(zeroes[:1], end-1); err != nil {
			t.Fatal(err)
		}
		if end > g.end && end <= want.offset() {
			continue // unused room
		}
		// A byte that was zero before changes nothing yet.
		checkSegment(t, g, records, want, "zeroes from byte "+strconv.FormatInt(end, 10))
	}
	if got, err := scanAll(g); len(got) != 0 || !errors.Is(err, ErrCorrupt) {
		t.Fatalf("scanned %d records of an empty segment: %v", len(got), err)
	}
	if !bytes.Equal(zeroes[:g.end], readRange(t, g, g.end)) {
		t.Fatal("the segment is not empty")
	}
}

func readRange(t *testing.T, g *segment, n int64) []byte {
	t.Helper()
	b := make([]byte, n)
	if err := readFull(g.file, b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}
