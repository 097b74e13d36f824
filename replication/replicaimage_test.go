package replication

import (
	"context"
	"errors"
	"testing"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

// imageStream is a replica that has taken ImageStart and a chunk at sector 1,
// beside an old store.
func imageStream(t *testing.T) (*replica, *modelSite) {
	t.Helper()
	source, site := fuzzPair(t)
	site.refuse = nil
	c, err := newCodec(false)
	must(t, err)
	r := &replica{hello: hello{group: modelGroup, volume: volumeOne}, stores: site, codec: c, images: newPartialImages()}
	must(t, r.handle(context.Background(), startOf(source, 1, 0)))
	must(t, r.handle(context.Background(), chunkOf(2, journal.SectorBytes, make([]byte, journal.SectorBytes))))
	return r, site
}

func startOf(source *modelStore, number uint64, from int64) *replicationv1.SourceMessage {
	return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_ImageStart{ImageStart: &replicationv1.ImageStart{
		Number: number, At: encodePosition(source.Durable()), SizeBytes: modelBytes, FromOffset: from, Timelines: encodeTimelines(source.Timelines())}}}
}

func chunkOf(number uint64, off int64, data []byte) *replicationv1.SourceMessage {
	return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Chunk{Chunk: &replicationv1.Chunk{
		Number: number, Offset: off, RawBytes: int64(len(data)), Crc: journal.PayloadChecksum(data), Data: data}}}
}

// TestImageRefuses is the table of chunks that must change nothing.
func TestImageRefuses(t *testing.T) {
	sector := make([]byte, journal.SectorBytes)
	damaged := chunkOf(3, 2*journal.SectorBytes, sector)
	damaged.GetChunk().Crc++
	for _, c := range []struct {
		name string
		m    *replicationv1.SourceMessage
		want error
	}{
		{"damaged", damaged, journal.ErrCorrupt},
		{"before the last one", chunkOf(3, 0, sector), ErrProtocol},
		{"over the last one", chunkOf(3, journal.SectorBytes, sector), ErrProtocol},
		{"behind the volume", chunkOf(3, modelBytes, sector), ErrProtocol},
		{"over the volume's end", chunkOf(3, modelBytes-journal.SectorBytes, make([]byte, 2*journal.SectorBytes)), ErrProtocol},
		{"offset that overflows", chunkOf(3, 1<<62, sector), ErrProtocol},
		{"half a sector", chunkOf(3, 2*journal.SectorBytes, sector[:256]), ErrProtocol},
		{"too large", chunkOf(3, 2*journal.SectorBytes, nil), ErrLimit},
		{"records before the end", &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Batch{Batch: &replicationv1.Batch{Number: 3}}}, ErrProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, site := imageStream(t)
			old, before := site.store(volumeOne), r.image.next
			if err := r.handle(context.Background(), c.m); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if r.image.next != before || site.store(volumeOne) != old {
				t.Errorf("image moved from %d to %d", before, r.image.next)
			}
		})
	}
}

// TestImageResume: a later stream goes on with exactly what is there, and with
// nothing else.
func TestImageResume(t *testing.T) {
	for _, c := range []struct {
		name string
		from int64
		want error
	}{
		{"where it was", 2 * journal.SectorBytes, nil},
		{"further on", 3 * journal.SectorBytes, ErrProtocol},
		{"before", journal.SectorBytes, ErrProtocol},
		{"from the start", 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			first, site := imageStream(t)
			source, _ := fuzzPair(t)
			next := &replica{hello: first.hello, stores: site, codec: first.codec, images: first.images}
			if err := next.handle(context.Background(), startOf(source, 1, c.from)); !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if wantImports := 1 + map[bool]int{true: 1}[c.from == 0]; site.imports != wantImports {
				t.Errorf("%d imports were begun, want %d", site.imports, wantImports)
			}
		})
	}
}

// TestImageWaitsForWhoUsesTheStore: an image that cannot be put in place now is
// kept, and the next stream needs to send nothing of it again.
func TestImageWaitsForWhoUsesTheStore(t *testing.T) {
	first, site := imageStream(t)
	source, _ := fuzzPair(t)
	end := func(number uint64) *replicationv1.SourceMessage {
		return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_ImageEnd{ImageEnd: &replicationv1.ImageEnd{Number: number}}}
	}
	old := site.store(volumeOne)
	site.busy = ErrInUse
	if err := first.handle(context.Background(), end(3)); !errors.Is(err, ErrInUse) {
		t.Fatalf("got %v, want ErrInUse", err)
	}
	if site.store(volumeOne) != old {
		t.Fatal("the store was replaced")
	}
	site.busy = nil
	next := &replica{hello: first.hello, stores: site, codec: first.codec, images: first.images}
	must(t, next.handle(context.Background(), startOf(source, 1, 2*journal.SectorBytes)))
	must(t, next.handle(context.Background(), end(2)))
	if site.imports != 1 || next.store.Tip() != source.Durable() || first.images.of(volumeOne) != nil {
		t.Errorf("%d imports, store at %s, want one at %s", site.imports, next.store.Tip(), source.Durable())
	}
}
