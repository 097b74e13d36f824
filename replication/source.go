package replication

import (
	"context"
	"errors"
	"fmt"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// errNoCredit: the next message has to wait for an acknowledgement.
var errNoCredit = errors.New("no credit")

// source is the sending side of one volume's stream: a state machine without
// goroutines, timers or connection. Its life is hello, begin with the
// replica's welcome, then next as often as there is credit. acknowledge may
// be called concurrently with next; everything else is one goroutine's.
type source struct {
	group string
	term  group.Term
	store SourceStore
	codec *codec
	stats *volumeStats

	path     journal.Path // that hello told
	credit   *credit
	number   uint64 // of the newest data message
	reader   RecordReader
	image    *imageSource       // not nil while an image is sent
	leap     *leapSource        // not nil while a leap is sent
	leaps    bool               // the replica takes them
	broken   error              // why nothing can follow what was sent
	timeline journal.TimelineID // that the replica has been told of
	last     journal.Position   // newest record read
	carry    []byte             // one encoded record that was read and not yet sent
	carried  journal.Record     // what carry holds; no payload
	// batchBytes is the size of the newest batch, before compression.
	batchBytes int
}

// hello opens the stream. journal.ErrDiverged when a fork happened just now;
// the caller tries again.
func (s *source) hello() (*replicationv1.SourceMessage, error) {
	path, ok := durablePath(s.store.Path(), s.store.Durable())
	if !ok {
		return nil, fmt.Errorf("read path of volume %s: %w", s.store.Volume(), journal.ErrDiverged)
	}
	s.path = path
	volume := s.store.Volume()
	return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Hello{Hello: &replicationv1.Hello{
		Version:   ProtocolVersion,
		Group:     s.group,
		Term:      uint64(s.term),
		Volume:    volume[:],
		SizeBytes: s.store.SizeBytes(),
		Path:      encodePath(path),
		Timelines: encodeTimelines(ancestry(s.store.Timelines(), path.Tip().Timeline)),
	}}}, nil
}

// begin takes the replica's answer and opens what will be sent: the records
// behind the replica's position or, when it has none that the journal still
// reaches, an image. creditBytes is the sender's own bound.
func (s *source) begin(welcome *replicationv1.Welcome, creditBytes int64) error {
	if welcome == nil {
		return fmt.Errorf("hello is not answered by welcome: %w", ErrProtocol)
	}
	if err := checkVersion(welcome.GetVersion()); err != nil {
		return err
	}
	if welcome.GetCreditBytes() <= 0 {
		return fmt.Errorf("credit of %d bytes: %w", welcome.GetCreditBytes(), ErrProtocol)
	}
	s.credit = newCredit(min(creditBytes, welcome.GetCreditBytes()))
	if welcome.GetAfter() == nil {
		return s.beginImage(welcome.GetPartial())
	}
	after := decodePosition(welcome.GetAfter())
	if !s.path.Contains(after) {
		return fmt.Errorf("replica stands at %s, which is not on the path: %w", after, ErrProtocol)
	}
	s.timeline, s.last, s.leaps = after.Timeline, after, welcome.GetLeaps()
	reader, err := s.store.Records(after)
	if errors.Is(err, journal.ErrThinned) && s.leaps {
		var leap bool
		if leap, err = s.leapsOver(after); leap {
			s.stats.begin(after)
			return s.beginLeap(after, journal.Seq(welcome.GetLeap().GetThrough()))
		} else if err == nil {
			return s.beginImage(welcome.GetPartial())
		}
	}
	if errors.Is(err, journal.ErrHorizon) || errors.Is(err, journal.ErrUnknownPosition) {
		// The horizon has passed it since hello, perhaps its whole timeline; or
		// the replica does not take what thinning has left.
		return s.beginImage(welcome.GetPartial())
	}
	if err != nil {
		return fmt.Errorf("read records behind %s: %w", after, err)
	}
	s.reader = reader
	s.stats.begin(after)
	return nil
}

// next returns the message to send next. It waits for a durable record where
// there is none to send. errNoCredit: acknowledge must come first.
// journal.ErrDiverged and journal.ErrHorizon: the stream must be opened anew.
func (s *source) next(ctx context.Context) (*replicationv1.SourceMessage, error) {
	switch {
	case s.broken != nil:
		return nil, s.broken
	case s.image != nil:
		return s.nextOfImage()
	case s.leap != nil:
		return s.nextOfLeap()
	}
	err := s.fetch(ctx)
	if errors.Is(err, journal.ErrThinned) && s.leaps {
		if err = s.beginLeap(s.last, 0); err == nil {
			return s.nextOfLeap()
		}
	}
	if err != nil {
		return nil, err
	}
	if s.carried.Position.Timeline != s.timeline {
		return s.forkTo(s.carried.Position.Timeline)
	}
	if !s.credit.fits(int64(len(s.carry))) {
		return nil, errNoCredit
	}
	return s.batch(ctx)
}

// fetch makes sure that carry holds a record.
func (s *source) fetch(ctx context.Context) error {
	if len(s.carry) > 0 {
		return nil
	}
	r, err := s.reader.Next(ctx)
	if err != nil {
		return fmt.Errorf("read record behind %s: %w", s.last, err)
	}
	s.carry = r.AppendEncoded(s.carry[:0], s.store.Volume())
	s.carried, s.last = r, r.Position
	s.carried.Payload = nil
	return nil
}

// forkTo tells the replica that the records go on on another timeline. Where
// timelines without a record lie between, each is told in its turn.
func (s *source) forkTo(line journal.TimelineID) (*replicationv1.SourceMessage, error) {
	t, err := childOf(s.store.Timelines(), s.timeline, line)
	if err != nil {
		return nil, err
	}
	s.timeline = t.ID
	s.number++
	s.credit.spend(charge{number: s.number, through: journal.Position{Timeline: t.ID, Seq: t.Parent.Seq}})
	return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Fork{
		Fork: &replicationv1.Fork{Number: s.number, Timeline: encodeTimeline(t)}}}, nil
}

// outBatch is a batch that is being gathered.
type outBatch struct {
	raw     []byte
	records uint32
	ch      charge
}

// newBatch makes room: batches of a stream are mostly alike, and the last one's
// size saves growing.
func (s *source) newBatch() *outBatch {
	return &outBatch{raw: make([]byte, 0, max(len(s.carry), s.batchBytes))}
}

// take adds the carried record.
func (b *outBatch) take(s *source) {
	b.raw = append(b.raw, s.carry...)
	b.records++
	b.ch.payloadBytes += int64(len(s.carry) - journal.RecordHeaderBytes)
	b.ch.through = s.carried.Position
	if s.carried.Kind == journal.KindCheckpoint {
		b.ch.checkpoint = s.carried.Length
	}
	s.carry = s.carry[:0]
}

// batch sends the carried record and those behind it that are durable now,
// fit the credit, and are on the same timeline.
func (s *source) batch(ctx context.Context) (*replicationv1.SourceMessage, error) {
	b := s.newBatch()
	for {
		b.take(s)
		if len(b.raw) >= TargetBatchBytes || s.last.Seq >= s.store.Durable().Seq {
			break
		}
		err := s.fetch(ctx)
		if errors.Is(err, journal.ErrThinned) {
			break // told again by the next fetch
		}
		if err != nil {
			return nil, err
		}
		total := int64(len(b.raw) + len(s.carry))
		if s.carried.Position.Timeline != s.timeline || total > MaxBatchBytes || !s.credit.grows(total) {
			break
		}
	}
	return s.sendBatch(b), nil
}

// sendBatch books what was gathered.
func (s *source) sendBatch(b *outBatch) *replicationv1.SourceMessage {
	s.number++
	b.ch.number, b.ch.rawBytes = s.number, int64(len(b.raw))
	s.batchBytes = len(b.raw)
	s.credit.spend(b.ch)
	kind, data := s.codec.pack(b.raw)
	s.stats.sent(int64(b.records), b.ch.payloadBytes, int64(len(data)))
	return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Batch{Batch: &replicationv1.Batch{
		Number: s.number, Records: b.records, Codec: kind, RawBytes: int64(len(b.raw)), Data: data}}}
}

// acknowledge takes an ack; ErrProtocol when it acknowledges what was not sent.
func (s *source) acknowledge(ack *replicationv1.Ack) error {
	if ack == nil {
		return fmt.Errorf("message is not an ack: %w", ErrProtocol)
	}
	charges, err := s.credit.acknowledge(ack.GetNumber(), decodePosition(ack.GetDurable()))
	if err != nil {
		return err
	}
	s.stats.acknowledged(charges)
	return nil
}

// close releases readers and view.
func (s *source) close() {
	if s.leap != nil {
		s.leap.reader.Close()
	}
	if s.reader != nil {
		s.reader.Close()
	}
	if s.image != nil {
		s.image.close()
	}
}
