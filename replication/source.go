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
	reader, err := s.store.Records(after)
	if errors.Is(err, journal.ErrHorizon) || errors.Is(err, journal.ErrUnknownPosition) {
		// The horizon has passed it since hello, perhaps its whole timeline.
		return s.beginImage(nil)
	}
	if err != nil {
		return fmt.Errorf("read records behind %s: %w", after, err)
	}
	s.reader, s.timeline, s.last = reader, after.Timeline, after
	s.stats.begin(after)
	return nil
}

// next returns the message to send next. It waits for a durable record where
// there is none to send. errNoCredit: acknowledge must come first.
// journal.ErrDiverged and journal.ErrHorizon: the stream must be opened anew.
func (s *source) next(ctx context.Context) (*replicationv1.SourceMessage, error) {
	if s.image != nil {
		return s.nextOfImage()
	}
	if err := s.fetch(ctx); err != nil {
		return nil, err
	}
	if s.carried.Position.Timeline != s.timeline {
		return s.fork()
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

// fork tells the replica that the records go on on another timeline. Where
// timelines without a record lie between, each is told in its turn.
func (s *source) fork() (*replicationv1.SourceMessage, error) {
	t, err := childOf(s.store.Timelines(), s.timeline, s.carried.Position.Timeline)
	if err != nil {
		return nil, err
	}
	s.timeline = t.ID
	s.number++
	s.credit.spend(charge{number: s.number, through: journal.Position{Timeline: t.ID, Seq: t.Parent.Seq}})
	return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Fork{
		Fork: &replicationv1.Fork{Number: s.number, Timeline: encodeTimeline(t)}}}, nil
}

// batch sends the carried record and those behind it that are durable now,
// fit the credit, and are on the same timeline.
func (s *source) batch(ctx context.Context) (*replicationv1.SourceMessage, error) {
	// Batches of a stream are mostly alike: the last one's size saves growing.
	raw := make([]byte, 0, max(len(s.carry), s.batchBytes))
	var records uint32
	ch := charge{}
	for {
		raw = append(raw, s.carry...)
		records++
		ch.payloadBytes += int64(len(s.carry) - journal.RecordHeaderBytes)
		ch.through = s.carried.Position
		if s.carried.Kind == journal.KindCheckpoint {
			ch.checkpoint = s.carried.Length
		}
		s.carry = s.carry[:0]
		if len(raw) >= TargetBatchBytes || s.last.Seq >= s.store.Durable().Seq {
			break
		}
		if err := s.fetch(ctx); err != nil {
			return nil, err
		}
		total := int64(len(raw) + len(s.carry))
		if s.carried.Position.Timeline != s.timeline || total > MaxBatchBytes || !s.credit.grows(total) {
			break
		}
	}
	s.number++
	ch.number, ch.rawBytes = s.number, int64(len(raw))
	s.batchBytes = len(raw)
	s.credit.spend(ch)
	kind, data := s.codec.pack(raw)
	s.stats.sent(int64(records), ch.payloadBytes, int64(len(data)))
	return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Batch{Batch: &replicationv1.Batch{
		Number: s.number, Records: records, Codec: kind, RawBytes: int64(len(raw)), Data: data}}}, nil
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

// close releases reader and view.
func (s *source) close() {
	if s.reader != nil {
		s.reader.Close()
	}
	if s.image != nil {
		s.image.close()
	}
}
