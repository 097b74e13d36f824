package replication

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

// BenchmarkPipeline measures both state machines with encoding and checksums,
// without transport or disk: the CPU cost of a replicated record of 4 KiB.
func BenchmarkPipeline(b *testing.B) {
	for _, compress := range []bool{false, true} {
		b.Run(fmt.Sprintf("compress=%v", compress), func(b *testing.B) {
			const perRun = 1000
			h := newHistory()
			source := newModelStore(h, volumeOne, 1)
			// Half of each payload is random, half is not: as databases are.
			payload := bytes.Repeat([]byte("lockstep"), modelBytes/8)
			for i := range modelBytes / 2 {
				payload[i] = byte(rand.Uint32())
			}
			for i := range perRun {
				source.append(journal.Record{Kind: journal.KindWrite, Position: pos(1, journal.Seq(i+1)), Length: modelBytes,
					Payload: payload, PayloadCRC: journal.PayloadChecksum(payload)})
			}
			if err := source.Flush(context.Background()); err != nil {
				b.Fatal(err)
			}
			c, err := newCodec(compress)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(perRun * modelBytes)
			for b.Loop() {
				benchmarkRun(b, source, c, perRun)
			}
		})
	}
}

// benchmarkRun sends all records of the source to a sink.
func benchmarkRun(b *testing.B, source *modelStore, c *codec, records journal.Seq) {
	sink := &sinkStore{tip: pos(1, 0)}
	src := &sending{store: source, codec: c, credit: newCredit(DefaultCreditBytes), stats: newVolumeStats(volumeOne, clock.Wall{}),
		timeline: 1, last: pos(1, 0)}
	var err error
	if src.reader, err = source.Records(pos(1, 0)); err != nil {
		b.Fatal(err)
	}
	rep := &replica{hello: hello{volume: volumeOne}, codec: c, images: newPartialImages(), store: sink, ready: true}
	for sink.tip.Seq < records {
		m, err := src.next(context.Background())
		if err == nil {
			err = rep.handle(context.Background(), m)
		}
		if err != nil {
			b.Fatal(err)
		}
		ack, err := rep.settle(context.Background())
		if err == nil {
			err = src.acknowledge(ack.GetAck())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// sinkStore takes records and keeps only the position.
type sinkStore struct {
	ReplicaStore // for what a benchmark does not come to
	tip          journal.Position
}

func (s *sinkStore) Tip() journal.Position         { return s.tip }
func (s *sinkStore) Durable() journal.Position     { return s.tip }
func (s *sinkStore) Timelines() []journal.Timeline { return nil }
func (s *sinkStore) Adopt(journal.Timeline) error  { return nil }
func (s *sinkStore) Flush(context.Context) error   { return nil }
func (s *sinkStore) Lacks() error                  { return nil }

func (s *sinkStore) Reclaim(context.Context) (int64, error) { return 0, nil }

func (s *sinkStore) AppendRecords(records []journal.Record) error {
	s.tip = records[len(records)-1].Position
	return nil
}
