package journal

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

const testVolumeBytes = 4 << 20

var testVolume = VolumeID{1, 2, 3}

func testConfig(t *testing.T) Config {
	t.Helper()
	return Config{FS: vfs.OS{}, Dir: filepath.Join(t.TempDir(), "store"), SegmentBytes: MinSegmentBytes}
}

func createAndOpen(t *testing.T, cfg Config) *Store {
	t.Helper()
	if err := Create(cfg, Spec{testVolume, testVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	return mustOpen(t, cfg)
}

func mustOpen(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClose(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func readAll(t *testing.T, r interface{ ReadAt([]byte, int64) error }, size int64) []byte {
	t.Helper()
	b := make([]byte, size)
	if err := r.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// driver applies random changes to a store and to a model of it.
type driver struct {
	t     *testing.T
	rng   *rand.Rand
	image []byte
	// past maps positions to the image there.
	past map[Position][]byte
}

func newDriver(t *testing.T, seed uint64) *driver {
	return &driver{t: t, rng: rand.New(rand.NewPCG(seed, 99)), image: make([]byte, testVolumeBytes), past: map[Position][]byte{}}
}

func (d *driver) change(s *Store) Position {
	d.t.Helper()
	sectors := int64(1 + d.rng.IntN(40))
	off := d.rng.Int64N(testVolumeBytes/SectorBytes-sectors) * SectorBytes
	length := sectors * SectorBytes
	var pos Position
	var err error
	switch d.rng.IntN(8) {
	case 0:
		pos, err = s.Discard(off, length)
		clear(d.image[off : off+length])
	case 1:
		pos, err = s.Zero(off, length)
		clear(d.image[off : off+length])
	default:
		p := make([]byte, length)
		for i := range p {
			p[i] = byte(d.rng.Uint32())
		}
		pos, err = s.Write(p, off)
		copy(d.image[off:], p)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return pos
}

func (d *driver) remember(pos Position) { d.past[pos] = bytes.Clone(d.image) }

func (d *driver) checkLive(s *Store) {
	d.t.Helper()
	if !bytes.Equal(readAll(d.t, s, testVolumeBytes), d.image) {
		d.t.Fatal("live content differs from the model")
	}
}

func (d *driver) checkPast(s *Store) (opened int) {
	d.t.Helper()
	for pos, want := range d.past {
		v, err := s.View(pos)
		if err != nil {
			continue
		}
		opened++
		if !bytes.Equal(readAll(d.t, v, testVolumeBytes), want) {
			d.t.Fatalf("view at %s differs from the model", pos)
		}
		if err := v.Close(); err != nil {
			d.t.Fatal(err)
		}
	}
	return opened
}

func TestStoreKeepsEveryPosition(t *testing.T) {
	cfg := testConfig(t)
	s := createAndOpen(t, cfg)
	d := newDriver(t, 1)
	for i := range 600 {
		pos := d.change(s)
		if i%37 == 0 {
			d.remember(pos)
		}
		if i%101 == 0 {
			if err := s.Maintain(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		if i%200 == 150 {
			mustClose(t, s)
			s = mustOpen(t, cfg)
		}
	}
	d.checkLive(s)
	if n := d.checkPast(s); n != len(d.past) {
		t.Fatalf("opened %d of %d positions", n, len(d.past))
	}
	mustClose(t, s)
}

func TestDestageKeepsLiveAndYoungPositions(t *testing.T) {
	cfg := testConfig(t)
	cfg.JournalBytes = 4 * MinSegmentBytes
	s := createAndOpen(t, cfg)
	d := newDriver(t, 2)
	pinned := Position{}
	for i := range 900 {
		pos := d.change(s)
		if i%37 == 0 {
			d.remember(pos)
		}
		if i == 300 {
			d.remember(pos)
			if err := s.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
			if err := s.Pin("keep", pos); err != nil {
				t.Fatal(err)
			}
			pinned = pos
		}
		if i%53 == 0 {
			if err := s.Maintain(context.Background()); err != nil {
				t.Fatal(err)
			}
			d.checkLive(s)
		}
		if i == 600 {
			v, err := s.View(pinned)
			if err != nil {
				t.Fatalf("open pinned position: %v", err)
			}
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			if err := s.Unpin("keep"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := d.checkPast(s); n == 0 || n == len(d.past) {
		t.Fatalf("opened %d of %d positions: want some, and not all after destage", n, len(d.past))
	}
	if st := s.Stats(); st.JournalBytes > 6*MinSegmentBytes {
		t.Fatalf("journal has %d bytes, budget is %d", st.JournalBytes, cfg.JournalBytes)
	}
	mustClose(t, s)
	s = mustOpen(t, cfg)
	d.checkLive(s)
	mustClose(t, s)
}

func TestForkAndUndo(t *testing.T) {
	cfg := testConfig(t)
	s := createAndOpen(t, cfg)
	d := newDriver(t, 3)
	var at Position
	for i := range 120 {
		pos := d.change(s)
		if i == 60 {
			at = pos
			d.remember(pos)
		}
	}
	before, image := s.Tip(), bytes.Clone(d.image)
	d.remember(before)
	if _, err := s.Fork(at, "rewind"); err != nil {
		t.Fatal(err)
	}
	d.image = bytes.Clone(d.past[at])
	d.checkLive(s)
	for range 50 {
		d.change(s)
	}
	d.checkLive(s)
	mustClose(t, s)
	s = mustOpen(t, cfg)
	d.checkLive(s)
	if n := d.checkPast(s); n != 2 {
		t.Fatalf("opened %d positions, want 2", n)
	}
	if _, err := s.Fork(before, "undo"); err != nil {
		t.Fatal(err)
	}
	d.image = image
	d.checkLive(s)
	mustClose(t, s)
}

func TestRecordsReachAnotherStore(t *testing.T) {
	src := createAndOpen(t, testConfig(t))
	start := src.Tip()
	d := newDriver(t, 4)
	dstCfg := testConfig(t)
	im, err := NewImport(dstCfg, Spec{testVolume, testVolumeBytes}, start, src.Timelines())
	if err != nil {
		t.Fatal(err)
	}
	if err := im.Commit(); err != nil {
		t.Fatal(err)
	}
	dst := mustOpen(t, dstCfg)
	reader, err := src.Records(start)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		d.change(src)
		if i%50 == 49 {
			if err := src.Maintain(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if reader.Ready() {
		t.Fatal("a record that is not durable is offered")
	}
	if err := src.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	for reader.Ready() {
		r, err := reader.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		wire := r.AppendEncoded(nil, testVolume)
		got, n, err := DecodeRecord(wire, testVolume)
		if err != nil || n != len(wire) {
			t.Fatalf("decode: %d of %d bytes, %v", n, len(wire), err)
		}
		if err := dst.AppendRecords([]Record{got}); err != nil {
			t.Fatal(err)
		}
	}
	reader.Close()
	if src.Tip() != dst.Tip() {
		t.Fatalf("replica at %s, source at %s", dst.Tip(), src.Tip())
	}
	d.checkLive(dst)
	mustClose(t, dst)
	mustClose(t, src)
}

func TestUncleanStopForksAndKeepsWrites(t *testing.T) {
	cfg := testConfig(t)
	s := createAndOpen(t, cfg)
	d := newDriver(t, 5)
	for range 200 {
		d.change(s)
	}
	tip := s.Tip()
	// The process is gone; the page cache is not.
	if err := s.release(s.segments); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, cfg)
	if s.Tip() != tip {
		t.Fatalf("recovered %s, want %s", s.Tip(), tip)
	}
	d.checkLive(s)
	pos := d.change(s)
	if pos.Timeline == tip.Timeline || pos.Seq != tip.Seq+1 {
		t.Fatalf("first write after recovery at %s, want a new timeline behind %s", pos, tip)
	}
	d.checkLive(s)
	mustClose(t, s)
	s = mustOpen(t, cfg)
	d.checkLive(s)
	mustClose(t, s)
}

func TestCheckpointsSurviveSealing(t *testing.T) {
	cfg := testConfig(t)
	s := createAndOpen(t, cfg)
	d := newDriver(t, 6)
	base := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for i := range 200 {
		d.change(s)
		_, err := s.Checkpoint(Checkpoint{Number: CheckpointNumber(i + 1), Time: base.Add(time.Duration(i) * time.Second), CheckpointInfo: CheckpointInfo{Group: "shop", Members: []VolumeID{testVolume}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.Checkpoints()); n != 0 {
		t.Fatalf("%d checkpoints before a flush", n)
	}
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		points := s.Checkpoints()
		if len(points) != 200 || points[199].Number != 200 || !points[7].Time.Equal(base.Add(7*time.Second)) || points[3].Group != "shop" {
			t.Fatalf("%d checkpoints, last %+v", len(points), points[len(points)-1])
		}
	}
	check()
	mustClose(t, s)
	s = mustOpen(t, cfg)
	check()
	mustClose(t, s)
}

func TestAStuckReaderGivesWayWhenTheJournalIsStrained(t *testing.T) {
	cfg := testConfig(t)
	cfg.JournalBytes = 4 * MinSegmentBytes
	s := createAndOpen(t, cfg)
	d := newDriver(t, 8)
	reader, err := s.Records(s.Tip())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 900 {
		d.change(s)
		if i%20 == 0 {
			if err := s.Maintain(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		if i == 100 && s.Horizon().Seq != 0 {
			t.Fatal("the horizon passed a reader although there was room")
		}
	}
	if st := s.Stats(); st.JournalBytes > 3*cfg.JournalBytes {
		t.Errorf("journal has %d bytes, budget is %d: a stuck reader holds it", st.JournalBytes, cfg.JournalBytes)
	}
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Next(context.Background()); !errors.Is(err, ErrHorizon) {
		t.Errorf("stuck reader: %v, want ErrHorizon", err)
	}
	reader.Close()
	d.checkLive(s)
	mustClose(t, s)
}

// A timeline that is taken up again goes on in another segment than the one it
// stopped in; the unused rest of the first is then not a torn tail.
func TestReactivatedTimelineRecovers(t *testing.T) {
	cfg := testConfig(t)
	s := createAndOpen(t, cfg)
	root := s.Timelines()[0]
	appendOne := func() Position {
		t.Helper()
		tip := s.Tip()
		p := bytes.Repeat([]byte{byte(tip.Seq + 1)}, SectorBytes)
		r := Record{Kind: KindWrite, Position: Position{tip.Timeline, tip.Seq + 1}, Length: SectorBytes, Payload: p, PayloadCRC: PayloadChecksum(p)}
		if err := s.AppendRecords([]Record{r}); err != nil {
			t.Fatal(err)
		}
		return r.Position
	}
	other := Timeline{ID: 77, Parent: appendOne(), Created: time.Unix(1, 0), Reason: "elsewhere"}
	for _, line := range []Timeline{other, root, other} {
		if err := s.Adopt(line); err != nil {
			t.Fatal(err)
		}
		appendOne()
	}
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	tip := s.Tip()
	if err := s.release(s.segments); err != nil { // the process is gone
		t.Fatal(err)
	}
	s = mustOpen(t, cfg)
	if s.Tip() != tip {
		t.Errorf("recovered %s, want %s", s.Tip(), tip)
	}
	mustClose(t, s)
}
