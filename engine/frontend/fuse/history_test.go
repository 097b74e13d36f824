package fuse

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"github.com/lockstep-csi/lockstep/engine"
)

const never = int64(math.MaxInt64)

// change is one request that changed sectors, and zeroed them where zero is set. Its
// moments are of history's clock.
type change struct {
	id           uint64 // in each of its sectors, unless it zeroes them; above 0
	first, count int    // sectors
	zero         bool
	sent, done   int64 // done: when the answer came, or never
}

// version is what a change made of one sector.
type version struct {
	*change
	seen int64 // when a read that found it was answered, or never
	dead int64 // from when on no read may find it, or never
}

// isBefore reports whether the version was over when another was begun: it had its
// answer, and so its place in the order.
func (v *version) isBefore(o *version) bool { return v.done < o.sent }

// history is the oracle of a device with requests in flight: what each of its
// sectors may hold. The rules are those of a register that is written and read
// concurrently:
//
//   - a read does not find what was overwritten when it was sent: by a change that was sent
//     after the former had its answer, and that itself had its answer, or was seen, by then;
//   - of two reads one after the other the second does not find what the first found
//     overwritten.
type history struct {
	mu      sync.Mutex
	clock   int64
	ids     uint64
	sectors [][]*version
	kills   int64 // the moment of the last kill
}

func newHistory(sectors int) *history {
	h := &history{sectors: make([][]*version, sectors), clock: 1}
	for i := range h.sectors { // zeroes from the start
		h.sectors[i] = []*version{{&change{zero: true, count: 1, first: i}, never, never}}
	}
	return h
}

func (h *history) tick() int64 {
	h.clock++
	return h.clock
}

// now is the present moment.
func (h *history) now() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tick()
}

// begin notes a change that is about to be sent.
func (h *history) begin(first, count int, zero bool) *change {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ids++
	c := &change{id: h.ids, first: first, count: count, zero: zero, sent: h.tick(), done: never}
	for s := first; s < first+count; s++ {
		h.sectors[s] = append(h.sectors[s], &version{c, never, never})
	}
	return c
}

// content is what a change writes.
func (c *change) content() []byte {
	p := make([]byte, c.count*engine.SectorBytes)
	for i := range c.count {
		fillSector(p[i*engine.SectorBytes:][:engine.SectorBytes], c.id, c.first+i)
	}
	return p
}

func fillSector(p []byte, id uint64, sector int) {
	for i := 0; i < len(p); i += 16 {
		binary.LittleEndian.PutUint64(p[i:], id)
		binary.LittleEndian.PutUint64(p[i+8:], uint64(sector)<<8|uint64(i/16))
	}
}

func (h *history) end(c *change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.done = h.tick()
}

// candidates are the versions that a sector's content can be.
func (h *history) candidates(sector int, p []byte) (found []*version, err error) {
	id := binary.LittleEndian.Uint64(p)
	want := make([]byte, len(p))
	if id != 0 {
		fillSector(want, id, sector)
	}
	if !bytes.Equal(p, want) {
		return nil, fmt.Errorf("sector %d holds a mixture that begins with change %d", sector, id)
	}
	for _, v := range h.sectors[sector] {
		if v.zero == (id == 0) && (v.zero || v.id == id) {
			found = append(found, v)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("sector %d holds change %d, which was never sent there", sector, id)
	}
	return found, nil
}

// check compares what a read that was sent at some moment, and answered at another, has
// found.
func (h *history) check(p []byte, first int, sent, answered int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := 0; i < len(p)/engine.SectorBytes; i++ {
		if _, err := h.find(first+i, p[i*engine.SectorBytes:][:engine.SectorBytes], sent, answered); err != nil {
			return err
		}
	}
	return nil
}

// find returns the versions of a sector that a read may have found, of those that its
// content can be.
func (h *history) find(sector int, p []byte, sent, answered int64) (legal []*version, err error) {
	found, err := h.candidates(sector, p)
	if err != nil {
		return nil, err
	}
	for _, v := range found {
		if why := h.overwritten(sector, v, sent); v.sent >= answered {
			err = fmt.Errorf("sector %d holds change %d, which was sent at %d, behind %d", sector, v.id, v.sent, answered)
		} else if why != "" {
			err = fmt.Errorf("sector %d, read from %d to %d, holds change %d of %d..%d: %s", sector, sent, answered, v.id, v.sent, v.done, why)
		} else {
			legal = append(legal, v)
		}
	}
	if len(legal) > 0 {
		return legal, nil
	}
	return nil, err
}

// overwritten tells why a version must not be found by a read that is sent at a moment.
func (h *history) overwritten(sector int, v *version, sent int64) string {
	if v.dead <= sent {
		return fmt.Sprintf("a read that was answered at %d found it overwritten", v.dead)
	}
	for _, o := range h.sectors[sector] {
		if v.isBefore(o) && min(o.done, o.seen) < sent {
			return fmt.Sprintf("change %d of %d..%d, seen at %d, has overwritten it", o.id, o.sent, o.done, o.seen)
		}
	}
	return ""
}

// read checks what a read has found, which is answered now, and remembers it.
func (h *history) read(p []byte, first int, sent int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.tick()
	for i := 0; i < len(p)/engine.SectorBytes; i++ {
		sector := first + i
		legal, err := h.find(sector, p[i*engine.SectorBytes:][:engine.SectorBytes], sent, now)
		if err != nil {
			return err
		}
		if len(legal) > 1 || legal[0].zero {
			continue // it is not known which
		}
		it := legal[0]
		it.seen = min(it.seen, now)
		for _, v := range h.sectors[sector] {
			// One that was seen before a kill, and not answered, may come again with it.
			if v != it && (v.done < sent || v.seen < sent && v.sent > h.kills) {
				v.dead = min(v.dead, now)
			}
		}
	}
	return nil
}

// recovered checks what a power loss has left: nothing of what was durable is gone, and
// nothing is there without what was answered before it was sent. It begins anew from there.
func (h *history) recovered(image []byte, durable func(*change) bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := make([][]*version, len(h.sectors))
	newest := int64(0) // when the newest change was sent that is certainly there
	for s := range h.sectors {
		var err error
		if left[s], err = h.candidates(s, image[s*engine.SectorBytes:][:engine.SectorBytes]); err != nil {
			return err
		}
		if !left[s][0].zero {
			newest = max(newest, left[s][0].sent)
		}
	}
	for s, found := range left {
		for _, o := range h.sectors[s] {
			if !durable(o.change) && o.done >= newest {
				continue
			}
			lost := true
			for _, v := range found {
				lost = lost && v.isBefore(o)
			}
			if lost {
				return fmt.Errorf("sector %d holds change %d of %d..%d; change %d of %d..%d is lost, durable %t, and one that was sent at %d is there",
					s, found[0].id, found[0].sent, found[0].done, o.id, o.sent, o.done, durable(o.change), newest)
			}
		}
	}
	for s, found := range left {
		kept := *found[0].change
		kept.sent, kept.done = 0, 0
		h.sectors[s] = []*version{{&kept, never, never}}
	}
	return nil
}
