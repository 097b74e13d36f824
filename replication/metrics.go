package replication

import (
	"errors"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

// Metrics is a snapshot of a Sender.
type Metrics struct {
	Group string
	Peer  string
	Term  group.Term // of the newest announcement that the peer accepted
	// Announced is when the peer last accepted an announcement; zero: never.
	Announced time.Time
	// LastError is why the newest announcement failed; nil when it did not.
	LastError error
	Volumes   []VolumeMetrics // ascending by volume
}

// VolumeMetrics is a snapshot of the sending of one volume.
type VolumeMetrics struct {
	Volume    journal.VolumeID
	Connected bool // the replica has answered and the stream is open
	// Acked is the newest position that the replica said is durable there;
	// the zero Position before the first answer.
	Acked journal.Position
	// LagRecords is how many durable records the replica does not hold.
	LagRecords int64
	// LagBytes estimates their payload by the mean of what was sent so far;
	// before anything was sent it is what is in flight.
	LagBytes int64
	// LagTime is how far behind in time the replica is: zero when it holds
	// everything durable, else the age of the newest state known to be
	// there, which is the last moment without lag or the time of the newest
	// checkpoint that it holds, whichever is newer.
	LagTime time.Duration
	// InFlightBytes are sent and not acknowledged.
	InFlightBytes int64
	// ImageBytes and ImageSizeBytes are the progress of an image sync: the
	// offset reached and the volume's size; both 0 when there is none.
	ImageBytes, ImageSizeBytes int64
	// SentRecords, SentPayloadBytes, SentImageBytes and SentWireBytes count
	// since the Sender was made: records, their payloads, image data, and
	// what records and image came to after compression.
	SentRecords, SentPayloadBytes, SentImageBytes, SentWireBytes int64
	// Streams counts the streams that were opened.
	Streams int64
	// LastError is why the last stream ended; nil while the first is open.
	LastError error
	// StaleAgainst is the term that the replica held when it refused this
	// one's as stale, and Owner the site that it named; 0 and empty unless
	// that is why the last stream ended. It is no reason to give the group up:
	// the announcement's refusal is.
	StaleAgainst group.Term
	Owner        string
}

// volumeStats collects the figures of one volume. Methods may be called
// concurrently.
type volumeStats struct {
	clock clock.Clock

	mu       sync.Mutex
	m        VolumeMetrics
	caughtUp time.Time // newest state known to be on the replica
	inFlight func() int64
}

func newVolumeStats(volume journal.VolumeID, c clock.Clock) *volumeStats {
	return &volumeStats{clock: c, m: VolumeMetrics{Volume: volume}, caughtUp: c.Now()}
}

// begin notes that records will be sent from behind a position.
func (v *volumeStats) begin(after journal.Position) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.m.Acked = after
	v.m.ImageBytes, v.m.ImageSizeBytes = 0, 0
}

// beginImage notes that an image will be sent from an offset on.
func (v *volumeStats) beginImage(sizeBytes, from int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.m.Acked = journal.Position{}
	v.m.ImageBytes, v.m.ImageSizeBytes = from, sizeBytes
}

// connected notes that a stream is open.
func (v *volumeStats) connected(inFlight func() int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.m.Connected = true
	v.m.StaleAgainst, v.m.Owner = 0, ""
	v.m.Streams++
	v.inFlight = inFlight
}

// disconnected notes why a stream ended.
func (v *volumeStats) disconnected(cause error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.m.Connected = false
	v.m.LastError = cause
	v.m.StaleAgainst, v.m.Owner = 0, ""
	var term *TermError
	if errors.As(cause, &term) && term.Kind == ErrStaleTerm && term.Held > term.Offered {
		v.m.StaleAgainst, v.m.Owner = term.Held, term.Owner
	}
	v.inFlight = nil
}

// sent notes a batch.
func (v *volumeStats) sent(records, payloadBytes, wireBytes int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.m.SentRecords += records
	v.m.SentPayloadBytes += payloadBytes
	v.m.SentWireBytes += wireBytes
}

// sentImage notes a chunk of an image that ends at an offset.
func (v *volumeStats) sentImage(rawBytes, wireBytes, end int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.m.SentImageBytes += rawBytes
	v.m.SentWireBytes += wireBytes
	v.m.ImageBytes = end
}

// acknowledged notes what an ack covered.
func (v *volumeStats) acknowledged(charges []charge) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, ch := range charges {
		if ch.through != (journal.Position{}) {
			v.m.Acked = ch.through
			v.m.ImageBytes, v.m.ImageSizeBytes = 0, 0
		}
		if at := time.Unix(0, ch.checkpoint); ch.checkpoint != 0 && at.After(v.caughtUp) {
			v.caughtUp = at
		}
	}
}

// unopened is the figures while no store was opened: of the lag only its age
// is known.
func (v *volumeStats) unopened() VolumeMetrics {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := v.m
	m.LagTime = max(0, v.clock.Now().Sub(v.caughtUp))
	return m
}

// snapshot computes the lag behind a store's durable position.
func (v *volumeStats) snapshot(durable journal.Position) VolumeMetrics {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := v.clock.Now()
	m := v.m
	if v.inFlight != nil {
		m.InFlightBytes = v.inFlight()
	}
	if m.Acked == durable {
		v.caughtUp = now
		return m
	}
	m.LagTime = max(0, now.Sub(v.caughtUp))
	m.LagRecords = int64(durable.Seq)
	if m.Acked.Seq <= durable.Seq {
		m.LagRecords -= int64(m.Acked.Seq)
	}
	m.LagBytes = m.InFlightBytes
	if m.SentRecords > 0 {
		m.LagBytes = m.LagRecords * (m.SentPayloadBytes / m.SentRecords)
	}
	return m
}
