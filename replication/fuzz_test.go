package replication

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// FuzzAnnouncement: whatever is accepted survives a round trip unchanged, and
// keeps the limits.
func FuzzAnnouncement(f *testing.F) {
	seed, err := proto.Marshal(encodeAnnouncement(Announcement{Group: "shop", Term: 3, NewestCheckpoint: 7, Deleted: []journal.VolumeID{{1}, {2}},
		Members: []Member{{Volume: volumeOne, Name: "pgdata", SizeBytes: 1 << 20, Attributes: map[string]string{AttributeName: "pgdata"},
			Progress: &Progress{Connected: true, LagRecords: 1, LagBytes: 2, ImageBytes: 3, ImageSizeBytes: 4}}, {Volume: volumeTwo, SizeBytes: 512}},
		Settings: group.Settings{CheckpointInterval: 1e9, History: "1s:1h,1m:24h"}}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		req := new(replicationv1.AnnounceRequest)
		if proto.Unmarshal(b, req) != nil {
			return
		}
		a, err := decodeAnnouncement(req)
		if err != nil {
			if !errors.Is(err, ErrProtocol) && !errors.Is(err, ErrLimit) && !errors.Is(err, ErrProtocolVersion) {
				t.Fatalf("error of no kind: %v", err)
			}
			return
		}
		again, err := decodeAnnouncement(encodeAnnouncement(a))
		if err != nil || len(again.Members) != len(a.Members) || !slices.Equal(again.Deleted, a.Deleted) || again.Group != a.Group || again.Settings != a.Settings || again.Ended != a.Ended || again.Resting != a.Resting || !again.ValidUntil.Equal(a.ValidUntil) {
			t.Fatalf("%+v becomes %+v, %v", a, again, err)
		}
		for i, m := range a.Members {
			if p, q := m.Progress, again.Members[i].Progress; (p == nil) != (q == nil) || p != nil && *p != *q {
				t.Fatalf("progress %+v becomes %+v", p, q)
			}
			if !maps.Equal(m.Attributes, again.Members[i].Attributes) {
				t.Fatalf("attributes %v become %v", m.Attributes, again.Members[i].Attributes)
			}
		}
	})
}

// FuzzHello: whatever is accepted is a path that can be walked.
func FuzzHello(f *testing.F) {
	store := newModelStore(newHistory(), volumeOne, 1)
	for range 5 {
		if err := store.write(journal.KindWrite, 0, journal.SectorBytes); err != nil {
			f.Fatal(err)
		}
	}
	if err := store.fork(2, pos(1, 3), "rewind"); err != nil {
		f.Fatal(err)
	}
	m, err := (&sending{store: store, group: "shop", term: 1}).hello()
	if err != nil {
		f.Fatal(err)
	}
	seed, err := proto.Marshal(m.GetHello())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(replicationv1.Hello)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		h, err := decodeHello(m)
		if err != nil {
			return
		}
		if len(h.path) == 0 || len(h.path) > MaxTimelines || !h.path.Contains(h.path.Tip()) {
			t.Fatalf("accepted path %v", h.path)
		}
	})
}

// FuzzStream: no message that a peer can make panics the receiver, moves a
// store off what was written, or is taken after another was refused.
func FuzzStream(f *testing.F) {
	source, _ := fuzzPair(f)
	for _, m := range fuzzMessages(f, source) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(replicationv1.SourceMessage)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		_, site := fuzzPair(t)
		before := site.store(volumeOne).Tip()
		c, err := newCodec(false)
		must(t, err)
		r := &replica{hello: hello{group: modelGroup, term: 1, volume: volumeOne}, stores: site, codec: c,
			images: newPartialImages(), store: site.store(volumeOne), ready: true}
		ctx := context.Background()
		if err := r.handle(ctx, m); err != nil {
			if after := site.store(volumeOne).Tip(); after != before {
				t.Fatalf("refused message (%v) moved the store from %s to %s", err, before, after)
			}
			if r.handle(ctx, m) == nil {
				t.Fatal("stream goes on after an error")
			}
			if _, err := r.settle(ctx); err == nil {
				t.Fatal("broken stream acknowledges")
			}
			return
		}
		if _, err := r.settle(ctx); err != nil {
			t.Fatalf("settle what was handled: %v", err)
		}
	})
}

// fuzzPair is a source with records, and a site with a replica that holds the
// first of them. Imports are refused beyond a small size, so that a fuzzer
// cannot ask for terabytes of memory.
func fuzzPair(tb testing.TB) (*modelStore, *modelSite) {
	h := newHistory()
	source := newModelStore(h, volumeOne, 1)
	for i := range 10 {
		if err := source.write(journal.KindWrite, int64(i%modelSectors)*journal.SectorBytes, journal.SectorBytes); err != nil {
			tb.Fatal(err)
		}
	}
	// A fixed stamp order makes the records the same in every call.
	site := newModelSite("b", map[journal.VolumeID]*history{volumeOne: h})
	site.members = []Member{{Volume: volumeOne, SizeBytes: modelBytes}}
	site.refuse = journal.ErrFull
	replica := filledModelStore(h, volumeOne, pos(1, 0), source.Timelines(), make([]byte, modelBytes))
	if err := replica.AppendRecords(source.lines[1].records[:4]); err != nil {
		tb.Fatal(err)
	}
	if err := replica.Flush(context.Background()); err != nil {
		tb.Fatal(err)
	}
	if err := source.Flush(context.Background()); err != nil {
		tb.Fatal(err)
	}
	site.stores[volumeOne] = replica
	return source, site
}

// fuzzMessages is one valid message of each kind, as the first of its stream.
func fuzzMessages(tb testing.TB, source *modelStore) []*replicationv1.SourceMessage {
	var all []*replicationv1.SourceMessage
	for _, compress := range []bool{false, true} {
		c, err := newCodec(compress)
		if err != nil {
			tb.Fatal(err)
		}
		reader, err := source.Records(pos(1, 4))
		if err != nil {
			tb.Fatal(err)
		}
		s := &sending{store: source, codec: c, credit: newCredit(1 << 20), reader: reader, timeline: 1, last: pos(1, 4),
			stats: newVolumeStats(volumeOne, fixedClock{})}
		batch, err := s.next(context.Background())
		if err != nil {
			tb.Fatal(err)
		}
		data := make([]byte, journal.SectorBytes)
		kind, packed := c.pack(data)
		all = append(all, batch,
			&replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Chunk{Chunk: &replicationv1.Chunk{Number: 1, Codec: kind,
				RawBytes: int64(len(data)), Crc: journal.PayloadChecksum(data), Data: packed}}})
	}
	return append(all,
		&replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Fork{Fork: &replicationv1.Fork{Number: 1,
			Timeline: &replicationv1.Timeline{Id: 5, Parent: encodePosition(pos(1, 4))}}}},
		&replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_ImageStart{ImageStart: &replicationv1.ImageStart{Number: 1,
			At: encodePosition(pos(1, 4)), SizeBytes: modelBytes, Timelines: encodeTimelines(source.Timelines())}}},
		&replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_ImageEnd{ImageEnd: &replicationv1.ImageEnd{Number: 1}}})
}
