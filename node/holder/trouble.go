package holder

import (
	"context"
	"fmt"
	"time"
)

// maxTroubleBytes bounds what one engine may say; the rest is cut off.
const maxTroubleBytes = 1 << 10

// trouble is why a client cannot serve a volume.
type trouble struct {
	volume string
	text   string // empty: there is none
	since  time.Time
}

// Trouble tells the holder why this client cannot serve a volume, for whoever waits
// for the device: Holder.Await fails with it. Empty: nothing is the matter any more.
// Of one client the holder remembers one volume's, for as long as the connection
// lasts and the client does not attach. ErrInvalid from a holder that does not know
// how.
func (c *Client) Trouble(ctx context.Context, volume, text string) error {
	if len(text) > maxTroubleBytes {
		text = text[:maxTroubleBytes]
	}
	if _, err := c.call(ctx, request{Op: opTrouble, Volume: volume, Text: text}, nil); err != nil {
		return fmt.Errorf("tell of trouble with volume %s: %w", volume, err)
	}
	return nil
}

// setTrouble carries Trouble out.
func (h *Holder) setTrouble(c *connection, volume, text string) {
	if len(text) > maxTroubleBytes {
		text = text[:maxTroubleBytes]
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	since := time.Now()
	if c.trouble.volume == volume && c.trouble.text != "" {
		since = c.trouble.since
	}
	c.trouble = trouble{volume: volume, text: text, since: since}
	h.announce()
}

// troubleOf is what an engine says is the matter with a volume; empty: nobody says
// anything. left is how long that is not to be believed yet.
func (h *Holder) troubleOf(volume string) (text string, left time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		if t := c.trouble; t.volume == volume && t.text != "" {
			return t.text, h.config.TroubleGrace - time.Since(t.since)
		}
	}
	return "", 0
}
