package replication

import (
	"fmt"
	"sync"

	"github.com/lockstep-csi/lockstep/journal"
)

// charge is one data message that was sent and not acknowledged.
type charge struct {
	number       uint64
	rawBytes     int64            // what it counts against the credit
	payloadBytes int64            // payloads of its records
	through      journal.Position // durable position that its ack must carry
	checkpoint   int64            // time of its newest checkpoint record, ns; 0: none
}

// credit bounds what a sender keeps in flight: at most limit bytes, or one
// message where that alone is larger, and at most maxUnacked messages. The
// sending and the receiving half of a stream share it.
type credit struct {
	mu     sync.Mutex
	limit  int64
	used   int64
	flight []charge      // oldest first
	freed  chan struct{} // holds a token when an ack came since the last wait
}

func newCredit(limit int64) *credit {
	return &credit{limit: limit, freed: make(chan struct{}, 1)}
}

// fits reports whether a message of that many bytes may be sent now.
func (c *credit) fits(rawBytes int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.flight) < maxUnacked && (c.used == 0 || c.used+rawBytes <= c.limit)
}

// grows reports whether a message that fits may be made that long.
func (c *credit) grows(rawBytes int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used+rawBytes <= c.limit
}

// spend books a message that is about to be sent.
func (c *credit) spend(ch charge) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used += ch.rawBytes
	c.flight = append(c.flight, ch)
}

// inFlight is the bytes not acknowledged.
func (c *credit) inFlight() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

// acknowledge frees what an ack covers and returns it, oldest first. An ack
// of something that is not in flight, or of another position than the one
// that was sent, is ErrProtocol and frees nothing.
func (c *credit) acknowledge(number uint64, durable journal.Position) ([]charge, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, ch := range c.flight {
		if ch.number != number {
			continue
		}
		if ch.through != durable {
			return nil, fmt.Errorf("message %d is acknowledged at %s, want %s: %w", number, durable, ch.through, ErrProtocol)
		}
		acked := append([]charge(nil), c.flight[:i+1]...)
		c.flight = append(c.flight[:0], c.flight[i+1:]...)
		for _, a := range acked {
			c.used -= a.rawBytes
		}
		select {
		case c.freed <- struct{}{}:
		default:
		}
		return acked, nil
	}
	return nil, fmt.Errorf("message %d is acknowledged, which is not in flight: %w", number, ErrProtocol)
}
