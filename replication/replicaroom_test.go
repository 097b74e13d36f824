package replication

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

const (
	fullVolumeBytes = 1 << 20
	fullWriteBytes  = 32 << 10
)

// fullPair is a source with all the room in the world, and a replica on a disk of so
// many segments. The replica has no maintenance but what its stream asks for.
type fullPair struct {
	t      *testing.T
	source *journal.Store
	store  *journal.Store
	disk   *vfs.Mem
	clock  *clock.Manual
	src    *sending
	rep    *replica
	writes int
}

func newFullPair(t *testing.T, segments int64) *fullPair {
	t.Helper()
	p := &fullPair{t: t, disk: vfs.NewMem(), clock: clock.NewManual(time.Unix(1_800_000_000, 0))}
	cfg := journal.Config{FS: vfs.NewMem(), Dir: "store", Clock: p.clock, SegmentBytes: journal.MinSegmentBytes}
	spec := journal.Spec{Volume: volumeOne, SizeBytes: fullVolumeBytes}
	must(t, journal.Create(cfg, spec))
	var err error
	p.source, err = journal.Open(cfg)
	must(t, err)
	cfg.FS = p.disk
	im, err := journal.NewImport(cfg, spec, p.source.Tip(), p.source.Timelines())
	must(t, err)
	must(t, im.Commit())
	p.disk.SetCapacity(segments * journal.MinSegmentBytes)
	p.store, err = journal.Open(cfg)
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(p.store.Close(), p.source.Close())) })
	must(t, p.open())
	return p
}

// open begins a stream.
func (p *fullPair) open() error {
	p.t.Helper()
	c, err := newCodec(false)
	must(p.t, err)
	p.src = &sending{store: OpenSource(p.source), group: modelGroup, term: 1, codec: c, stats: newVolumeStats(volumeOne, p.clock)}
	opening, err := p.src.hello()
	must(p.t, err)
	h, err := decodeHello(opening.GetHello())
	must(p.t, err)
	p.rep = &replica{hello: h, stores: oneStore{p.store}, codec: c, images: newPartialImages()}
	welcome, err := p.rep.open(context.Background(), DefaultCreditBytes)
	if err != nil {
		return err
	}
	return p.src.begin(welcome.GetWelcome(), DefaultCreditBytes)
}

// write has the source write so many segments, over the first bytes of the volume, and
// carries them to the replica.
func (p *fullPair) write(segments int, hot int64) error {
	p.t.Helper()
	for range segments * journal.MinSegmentBytes / fullWriteBytes {
		p.writes++
		_, err := p.source.Write(bytes.Repeat([]byte{byte(p.writes)}, fullWriteBytes), int64(p.writes)*fullWriteBytes%hot)
		must(p.t, err)
	}
	must(p.t, p.source.Flush(context.Background()))
	return pump(p.t, p.src, p.rep)
}

// image is what a store has at a position.
func (p *fullPair) image(s *journal.Store, at journal.Position) []byte {
	p.t.Helper()
	v, err := s.View(at)
	must(p.t, err)
	out := make([]byte, fullVolumeBytes)
	must(p.t, errors.Join(v.ReadAt(out, 0), v.Close()))
	return out
}

// same makes sure that the replica has the source's prefix.
func (p *fullPair) same() {
	p.t.Helper()
	must(p.t, p.store.Flush(context.Background()))
	at := p.store.Durable()
	if !bytes.Equal(p.image(p.store, at), p.image(p.source, at)) {
		p.t.Errorf("at %s the replica has another content than its source had", at)
	}
}

// TestFullReplicaGivesUpHistory: a replica whose history has filled its disk goes on,
// with less of it, as a primary does. Its stream does not end.
func TestFullReplicaGivesUpHistory(t *testing.T) {
	p := newFullPair(t, 16)
	for range 10 {
		if err := p.write(8, fullVolumeBytes/2); err != nil {
			t.Fatalf("after %d writes: %v", p.writes, err)
		}
		p.same()
	}
	if p.store.Tip() != p.source.Tip() {
		t.Errorf("the replica stands at %s, its source at %s", p.store.Tip(), p.source.Tip())
	}
	if p.store.Stats().Space.GivenUpBytes == 0 {
		t.Error("nothing had to be given up: the disk was not full")
	}
}

// TestFullReplicaKeepsItsPoints: a replica whose disk is full of what a pin holds
// refuses, and keeps what it has; nothing is sent to it in vain; with room again it
// goes on where it was.
func TestFullReplicaKeepsItsPoints(t *testing.T) {
	p := newFullPair(t, 16)
	must(t, p.write(2, fullVolumeBytes))
	pinned := p.store.Tip()
	want := p.image(p.store, pinned)
	must(t, p.store.Pin("snapshot", pinned))
	if err := p.write(40, fullVolumeBytes); !errors.Is(err, journal.ErrFull) {
		t.Fatalf("the disk takes all: %v", err)
	}
	for range 3 {
		if err := p.open(); !errors.Is(err, journal.ErrFull) {
			t.Fatalf("a new stream ends with %v, want to be refused before anything is sent", err)
		}
	}
	p.same()
	if !bytes.Equal(p.image(p.store, pinned), want) {
		t.Error("the pinned point has changed")
	}

	p.disk.SetCapacity(200 * journal.MinSegmentBytes)
	must(t, p.open())
	must(t, pump(p.t, p.src, p.rep))
	p.same()
	if p.store.Tip() != p.source.Tip() {
		t.Errorf("the replica stands at %s, its source at %s", p.store.Tip(), p.source.Tip())
	}
	if !bytes.Equal(p.image(p.store, pinned), want) {
		t.Error("the pinned point has changed")
	}
}
