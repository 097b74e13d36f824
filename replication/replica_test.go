package replication

import (
	"context"
	"errors"
	"testing"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

// pipe is both state machines of one volume, connected by hand.
type pipe struct {
	t      *testing.T
	source *modelStore
	site   *modelSite
	src    *sending
	rep    *replica
}

// newPipe opens a stream and brings the replica to the source's tip.
func newPipe(t *testing.T) *pipe {
	t.Helper()
	source, site := fuzzPair(t)
	site.refuse = nil
	p := &pipe{t: t, source: source, site: site}
	p.open()
	must(t, p.pump())
	return p
}

// open begins a new stream over the stores as they are.
func (p *pipe) open() {
	p.t.Helper()
	c, err := newCodec(true)
	must(p.t, err)
	p.src = &sending{store: p.source, group: modelGroup, term: 1, codec: c, stats: newVolumeStats(volumeOne, fixedClock{})}
	opening, err := p.src.hello()
	must(p.t, err)
	h, err := decodeHello(opening.GetHello())
	must(p.t, err)
	p.rep = &replica{hello: h, stores: p.site, codec: c, images: newPartialImages()}
	welcome, err := p.rep.open(context.Background(), DefaultCreditBytes)
	must(p.t, err)
	must(p.t, p.src.begin(welcome.GetWelcome(), DefaultCreditBytes))
}

// pump carries messages until there are none, and returns the replica's error.
func (p *pipe) pump() error {
	p.t.Helper()
	return pump(p.t, p.src, p.rep)
}

func pump(t *testing.T, src *source, rep *replica) error {
	t.Helper()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		m, err := src.next(ended)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		must(t, err)
		if err := rep.handle(context.Background(), m); err != nil {
			return err
		}
		ack, err := rep.settle(context.Background())
		must(t, err)
		must(t, src.acknowledge(ack.GetAck()))
	}
}

// TestForkToKnownTimeline: the sender still stands before the place where a
// rewind once forked when that rewind is undone in part. Its path then leads
// through a tail that the replica holds already. (The simulation found this
// as a record that did not follow the tip.)
func TestForkToKnownTimeline(t *testing.T) {
	p := newPipe(t)
	writeSome(t, p.source, 2) // up to 1/12, which the replica does not get
	must(t, p.source.fork(2, pos(1, 10), "rewind"))
	writeSome(t, p.source, 4)
	p.open()
	must(t, p.pump()) // the replica holds 2/14
	must(t, p.source.fork(3, pos(1, 11), "undo"))
	p.open() // and is back at 1/10
	must(t, p.source.fork(4, pos(2, 12), "undo of the undo"))
	if err := p.pump(); !errors.Is(err, ErrRealign) {
		t.Fatalf("got %v, want %v", err, ErrRealign)
	}
	p.open()
	must(t, p.pump())
	if got, want := p.site.store(volumeOne).Tip(), pos(4, 12); got != want {
		t.Errorf("replica stands at %s, want %s", got, want)
	}
	must(t, p.site.store(volumeOne).verify())
}

// TestReplicaRefuses is the table of messages that must change nothing.
func TestReplicaRefuses(t *testing.T) {
	batch := func(p *pipe) *replicationv1.Batch {
		writeSome(p.t, p.source, 3)
		m, err := p.src.next(context.Background())
		must(p.t, err)
		return m.GetBatch()
	}
	asMessage := func(b *replicationv1.Batch) *replicationv1.SourceMessage {
		return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Batch{Batch: b}}
	}
	for _, c := range []struct {
		name string
		make func(p *pipe) *replicationv1.SourceMessage
		want error
	}{
		{"empty message", func(*pipe) *replicationv1.SourceMessage { return &replicationv1.SourceMessage{} }, ErrProtocol},
		{"second hello", func(*pipe) *replicationv1.SourceMessage {
			return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Hello{Hello: &replicationv1.Hello{}}}
		}, ErrProtocol},
		{"number left out", func(p *pipe) *replicationv1.SourceMessage {
			b := batch(p)
			b.Number++
			return asMessage(b)
		}, ErrProtocol},
		{"number repeated", func(p *pipe) *replicationv1.SourceMessage {
			b := batch(p)
			b.Number--
			return asMessage(b)
		}, ErrProtocol},
		{"too large", func(p *pipe) *replicationv1.SourceMessage {
			b := batch(p)
			b.RawBytes = MaxBatchBytes + 1
			return asMessage(b)
		}, ErrLimit},
		{"other length than said", func(p *pipe) *replicationv1.SourceMessage {
			b := batch(p)
			b.RawBytes--
			return asMessage(b)
		}, journal.ErrCorrupt},
		{"other count than said", func(p *pipe) *replicationv1.SourceMessage {
			b := batch(p)
			b.Records--
			return asMessage(b)
		}, ErrProtocol},
		{"unknown codec", func(p *pipe) *replicationv1.SourceMessage {
			b := batch(p)
			b.Codec = 7
			return asMessage(b)
		}, ErrProtocol},
		{"records from further on", func(p *pipe) *replicationv1.SourceMessage {
			b := batch(p)
			writeSome(p.t, p.source, 1)
			later := batch(p)
			later.Number = b.Number
			return asMessage(later)
		}, journal.ErrGap},
		{"records of another volume", func(p *pipe) *replicationv1.SourceMessage {
			b := batch(p)
			p.rep.hello.volume = volumeTwo
			return asMessage(b)
		}, journal.ErrCorrupt},
		{"chunk without an image", func(p *pipe) *replicationv1.SourceMessage {
			return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Chunk{Chunk: &replicationv1.Chunk{Number: p.rep.number + 1}}}
		}, ErrProtocol},
		{"image in the middle of a stream", func(p *pipe) *replicationv1.SourceMessage {
			return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_ImageStart{ImageStart: &replicationv1.ImageStart{Number: p.rep.number + 1}}}
		}, ErrProtocol},
		{"fork elsewhere", func(p *pipe) *replicationv1.SourceMessage {
			return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Fork{Fork: &replicationv1.Fork{Number: p.rep.number + 1,
				Timeline: &replicationv1.Timeline{Id: 9, Parent: encodePosition(pos(1, 2))}}}}
		}, journal.ErrGap},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPipe(t)
			store := p.site.store(volumeOne)
			before := store.Tip()
			m := c.make(p)
			if err := p.rep.handle(context.Background(), m); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if store.Tip() != before || p.site.store(volumeOne) != store {
				t.Errorf("store moved from %s to %s", before, store.Tip())
			}
		})
	}
}
