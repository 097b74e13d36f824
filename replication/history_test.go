package replication

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

// image is what a model volume holds: the stamp of each sector, 0 for zeroes.
type image [modelSectors]uint64

// fill writes the sector that belongs to a stamp.
func fill(sector []byte, stamp uint64) {
	for i := 0; i < len(sector); i += 8 {
		binary.LittleEndian.PutUint64(sector[i:], stamp)
	}
}

// history is the oracle: everything that was ever written to a volume on any
// site, kept apart from the stores that are under test.
type history struct {
	mu    sync.Mutex
	seed  maphash.Seed
	lines map[journal.TimelineID]*historyLine
	stamp uint64
}

type historyLine struct {
	parent journal.Position
	steps  []historyStep // behind parent
}

// historyStep is the state after one record.
type historyStep struct {
	sum   uint64 // of all records up to here
	image image
}

func newHistory() *history {
	return &history{seed: maphash.MakeSeed(), lines: make(map[journal.TimelineID]*historyLine)}
}

func (h *history) fork(t journal.Timeline) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines[t.ID] = &historyLine{parent: t.Parent}
}

func (h *history) at(pos journal.Position) (historyStep, bool) {
	for {
		line := h.lines[pos.Timeline]
		if line == nil {
			return historyStep{}, pos == journal.Position{}
		}
		if pos.Seq > line.parent.Seq {
			i := int(pos.Seq - line.parent.Seq - 1)
			if i >= len(line.steps) {
				return historyStep{}, false
			}
			return line.steps[i], true
		}
		pos = line.parent
	}
}

// record adds what a primary appended.
func (h *history) record(r journal.Record, volume journal.VolumeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before, ok := h.at(journal.Position{Timeline: r.Position.Timeline, Seq: r.Position.Seq - 1})
	line := h.lines[r.Position.Timeline]
	if !ok || int(r.Position.Seq-line.parent.Seq-1) != len(line.steps) {
		panic(fmt.Sprintf("model wrote %s twice or out of order", r.Position))
	}
	step := historyStep{sum: chain(h.seed, before.sum, r, volume), image: before.image}
	for s := r.Offset / journal.SectorBytes; r.Kind != journal.KindCheckpoint && s < (r.Offset+r.Length)/journal.SectorBytes; s++ {
		step.image[s] = 0
		if r.Kind == journal.KindWrite {
			step.image[s] = binary.LittleEndian.Uint64(r.Payload)
		}
	}
	line.steps = append(line.steps, step)
}

func (h *history) nextStamp() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stamp++
	return h.stamp
}

func chain(seed maphash.Seed, before uint64, r journal.Record, volume journal.VolumeID) uint64 {
	var mh maphash.Hash
	mh.SetSeed(seed)
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], before)
	mh.Write(b[:])
	mh.Write(r.AppendEncoded(nil, volume))
	return mh.Sum64()
}

func sameImage(data []byte, want image) error {
	for i, stamp := range want {
		sector := data[i*journal.SectorBytes : (i+1)*journal.SectorBytes]
		for off := 0; off < len(sector); off += 8 {
			if got := binary.LittleEndian.Uint64(sector[off:]); got != stamp {
				return fmt.Errorf("sector %d holds stamp %d, want %d", i, got, stamp)
			}
		}
	}
	return nil
}

// checkpointTime gives every checkpoint another time.
func checkpointTime(n int64) int64 { return time.Unix(1_800_000_000, 0).UnixNano() + n }
